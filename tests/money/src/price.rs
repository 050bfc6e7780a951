//! What a provider's bill comes to, by hand: integers of 10^-18 USD, summed, rounded up to a nano-dollar once. Pure.

use tollgate_harness::{InvoiceRow, Tokens};

/// 10^-18 USD in a nano-dollar.
const ATTO_PER_NANO: i128 = 1_000_000_000;

/// 10^-18 USD for each token of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub input: i128,
    pub output: i128,
    pub cache_read: i128,
    pub cache_write_5m: i128,
    pub cache_write_1h: i128,
    pub reasoning: i128,
}

/// A price list of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub usual: Rates,
    /// More input than this puts the whole call under other rates.
    pub above: Option<(u64, Rates)>,
}

/// From USD for a million tokens, as decimal text, to 10^-18 USD for one.
///
/// # Panics
/// The text is no decimal, or has more than 12 digits behind its point.
pub fn per_million(text: &str) -> i128 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{part:0<12}");
    assert_eq!(digits.len(), whole.len() + 12, "{text}");
    digits.parse().expect("decimal digits")
}

impl Rates {
    /// Input and output, USD for a million tokens; whatever is cached costs as input, what is thought as output.
    pub fn new(input: &str, output: &str) -> Rates {
        let (input, output) = (per_million(input), per_million(output));
        Rates { input, output, cache_read: input, cache_write_5m: input, cache_write_1h: input, reasoning: output }
    }

    /// Cache rates: read, written for five minutes, written for an hour.
    pub fn cached(self, read: &str, write_5m: &str, write_1h: &str) -> Rates {
        Rates {
            cache_read: per_million(read),
            cache_write_5m: per_million(write_5m),
            cache_write_1h: per_million(write_1h),
            ..self
        }
    }

    pub fn reasoning(self, rate: &str) -> Rates {
        Rates { reasoning: per_million(rate), ..self }
    }
}

impl Price {
    pub fn flat(usual: Rates) -> Price {
        Price { usual, above: None }
    }

    pub fn above(self, input_tokens: u64, rates: Rates) -> Price {
        Price { above: Some((input_tokens, rates)), ..self }
    }

    /// Nano-USD.
    pub fn cost(&self, tokens: &Tokens) -> i64 {
        let Tokens { input, output, cache_read, cache_write_5m, cache_write_1h, reasoning } = *tokens;
        let rates = match self.above {
            Some((threshold, rates)) if input > threshold => rates,
            _ => self.usual,
        };
        let lines = [
            (input - cache_read - cache_write_5m - cache_write_1h, rates.input),
            (cache_read, rates.cache_read),
            (cache_write_5m, rates.cache_write_5m),
            (cache_write_1h, rates.cache_write_1h),
            (output - reasoning, rates.output),
            (reasoning, rates.reasoning),
        ];
        let sum: i128 = lines.iter().map(|(count, rate)| i128::from(*count) * rate).sum();
        i64::try_from((sum + ATTO_PER_NANO - 1) / ATTO_PER_NANO).expect("a test spends less than nine billion USD")
    }

    /// Nano-USD of an invoice row; 0 where nothing was billed.
    pub fn bill(&self, row: &InvoiceRow) -> i64 {
        if row.billed { self.cost(&tokens(row)) } else { 0 }
    }
}

/// What an invoice row counts.
pub fn tokens(row: &InvoiceRow) -> Tokens {
    let InvoiceRow { input_tokens, output_tokens, cache_read, cache_write_5m, cache_write_1h, reasoning, .. } = row;
    Tokens {
        input: *input_tokens,
        output: *output_tokens,
        cache_read: *cache_read,
        cache_write_5m: *cache_write_5m,
        cache_write_1h: *cache_write_1h,
        reasoning: *reasoning,
    }
}

/// What a deployment of the harness costs where the test states nothing else.
pub fn usual() -> Price {
    Price::flat(Rates::new("2.50", "10.00").cached("0.25", "3.125", "3.125"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_examples_by_hand() {
        let gpt_4o = Price::flat(Rates::new("2.5", "10").cached("1.25", "2.5", "2.5"));
        let used = Tokens { cache_read: 600, ..Tokens::new(1000, 200) };
        assert_eq!(gpt_4o.cost(&used), 3_750_000);
        let sonnet = Price::flat(Rates::new("3", "15").cached("0.3", "3.75", "6"));
        let used = Tokens { cache_read: 5000, cache_write_5m: 2000, cache_write_1h: 1000, ..Tokens::new(8300, 400) };
        assert_eq!(sonnet.cost(&used), 21_900_000);
        let tiny = Price::flat(Rates::new("0.000000000001", "0"));
        assert_eq!((tiny.cost(&Tokens::new(1, 0)), tiny.cost(&Tokens::new(0, 1))), (1, 0));
        let tiered = Price::flat(Rates::new("5", "30")).above(272_000, Rates::new("10", "45"));
        assert_eq!(tiered.cost(&Tokens::new(300_000, 1000)), 3_045_000_000);
        assert_eq!(tiered.cost(&Tokens::new(272_000, 0)), 1_360_000_000);
    }
}
