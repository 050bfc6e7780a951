//! What a deployment's calls cost: what its resource states, else what the price table and the gateway's overlays say.

use tollgate_crds::{PerMillionTokens, Pricing, Rate, ServiceTier};

use super::overlay::{Listed, Overlays};
use super::report::{Report, Subject};
use super::values::Reader;
use crate::catalogue::Provider;
use crate::finding::Reason;
use crate::price::{self, ModelPrice, Part, PartError, PriceSheet, Unit};

/// What is known of a model.
#[derive(Debug, Default)]
pub(super) struct Priced {
    pub sheet: Option<PriceSheet>,
    pub max_input_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    /// An overlay of the gateway that would have changed it cannot be used.
    pub is_doubtful: bool,
}

/// How many tokens the rates of `perMillionTokens` are for.
const MILLION: u64 = 1_000_000;

/// `pricing` of a resource, read.
#[derive(Debug, Default)]
pub(super) struct Stated<'p> {
    free: bool,
    pub like: Option<&'p str>,
    parts: Vec<Part<'p>>,
}

impl Stated<'_> {
    /// The prices, where `base` is what they replace single rates of.
    ///
    /// # Errors
    /// An amount that is no price, or two for the same conditions.
    pub fn over(&self, base: Option<&PriceSheet>, version: &str) -> Result<PriceSheet, PartError> {
        match base {
            _ if self.free => Ok(PriceSheet::free().named(version)),
            // Only of another model: that one's, and its name.
            Some(base) if self.parts.is_empty() => Ok(base.clone()),
            Some(base) => base.with_parts(&format!("{version} over {}", base.version()), &self.parts),
            None => PriceSheet::from_parts(version, &self.parts),
        }
    }

    /// Whether its rates can be used, whatever they replace.
    pub fn is_sound(&self, field: &str, subject: Subject<'_>, report: &mut Report) -> bool {
        let sheet = self.over(None, "");
        if let Err(error) = &sheet {
            report.error(subject, Reason::InvalidValue, field, error.to_string());
        }
        sheet.is_ok()
    }
}

/// `None`: what is written cannot be used.
pub(super) fn price(
    pricing: Option<&Pricing>,
    provider: &Provider,
    model: &str,
    prices: &Overlays<'_>,
    subject: Subject<'_>,
    report: &mut Report,
) -> Option<Priced> {
    let Some(pricing) = pricing else {
        let listed = prices.find(provider.id, model);
        if listed.sheet.is_none() && !listed.is_doubtful {
            let message = format!("the price table does not know model `{model}` of provider `{}`", provider.id);
            report.warning(subject, Reason::PriceUnknown, "spec.pricing", message).hint =
                "state it in spec.pricing: perMillionTokens, like, or free: true; Hard budgets refuse calls without a price"
                    .to_owned();
        }
        let Listed { model, sheet, is_changed, is_doubtful } = listed;
        let sheet = if is_changed { sheet.map(PriceSheet::sealed) } else { sheet };
        return Some(Priced { is_doubtful, ..priced(model.as_ref(), sheet) });
    };
    let mut reader = Reader::new(report, subject);
    let stated = read(pricing, "spec.pricing", &mut reader)?;
    let base = match stated.like {
        Some(like) => match prices.find_like(like) {
            Some(base) => base,
            None => {
                report_unknown_like(like, "spec.pricing", subject, report);
                return None;
            }
        },
        None => Listed::default(),
    };
    if stated.like.is_some() && base.sheet.is_none() {
        return Some(Priced { is_doubtful: true, ..priced(base.model.as_ref(), None) });
    }
    let is_listed = base.sheet.is_some() && stated.parts.is_empty() && !base.is_changed;
    let version = format!("{}/{}", subject.namespace, subject.name);
    let sheet = match stated.over(base.sheet.as_ref(), &version) {
        Ok(sheet) if is_listed => sheet,
        Ok(sheet) => sheet.sealed(),
        Err(error) => {
            report.error(subject, Reason::InvalidValue, "spec.pricing", error.to_string());
            return None;
        }
    };
    let known = base.model.or_else(|| prices.known(provider.id, model));
    Some(Priced { is_doubtful: base.is_doubtful, ..priced(known.as_ref(), Some(sheet)) })
}

/// `None`: what is written cannot be used. `field`: where it stands.
pub(super) fn read<'p>(pricing: &'p Pricing, field: &str, reader: &mut Reader<'_, '_>) -> Option<Stated<'p>> {
    let Pricing { per_million_tokens, free, like, rates } = pricing;
    let stated = per_million_tokens.is_some() || like.is_some() || !rates.is_empty();
    if *free == stated {
        let message = if stated { "free excludes perMillionTokens, like and rates" } else { "it states no price" };
        reader.exactly_one(field, message);
        return None;
    }
    if *free {
        return Some(Stated { free: true, ..Stated::default() });
    }
    let parts = parts(per_million_tokens.as_ref(), rates, field, reader);
    (!reader.broken).then_some(Stated { free: false, like: like.as_deref(), parts })
}

/// `field`: of the `pricing`.
pub(super) fn report_unknown_like(like: &str, field: &str, subject: Subject<'_>, report: &mut Report) {
    let message = format!("the price table does not know `{like}`");
    report.error(subject, Reason::PriceUnknown, format!("{field}.like"), message).hint =
        "write provider/model, as in azure/gpt-4o".to_owned();
}

fn priced(model: Option<&ModelPrice>, sheet: Option<PriceSheet>) -> Priced {
    Priced {
        sheet,
        max_input_tokens: model.and_then(|model| model.max_input_tokens),
        max_output_tokens: model.and_then(|model| model.max_output_tokens),
        is_doubtful: false,
    }
}

fn parts<'p>(
    per_million: Option<&'p PerMillionTokens>,
    rates: &'p [Rate],
    of: &str,
    reader: &mut Reader<'_, '_>,
) -> Vec<Part<'p>> {
    let mut parts = Vec::new();
    if let Some(PerMillionTokens { input, output, cache_read, cache_write }) = per_million {
        let usual = [
            (Unit::InputToken, "input", input),
            (Unit::OutputToken, "output", output),
            (Unit::CacheReadToken, "cacheRead", cache_read),
            (Unit::CacheWriteToken, "cacheWrite", cache_write),
        ];
        for (unit, name, price) in usual {
            match price.as_ref().map(|price| price.get()) {
                Some(Ok(usd)) => {
                    parts.push(Part { unit, usd, per: MILLION, above_input_tokens: None, service_tier: None })
                }
                Some(Err(error)) => {
                    reader.invalid(format!("{of}.perMillionTokens.{name}"), error.to_string());
                }
                None => {}
            }
        }
        if parts.is_empty() && !reader.broken {
            reader.invalid(format!("{of}.perMillionTokens"), "it states no rate");
        }
    }
    for (at, rate) in rates.iter().enumerate() {
        let field = format!("{of}.rates[{at}]");
        parts.extend(part(rate, &field, reader));
    }
    parts
}

fn part<'p>(rate: &'p Rate, field: &str, reader: &mut Reader<'_, '_>) -> Option<Part<'p>> {
    let Rate { unit, price, per, above_input_tokens, service_tier, cache_ttl } = rate;
    let Some(unit) = Unit::parse(unit.as_str()) else {
        reader.invalid(format!("{field}.unit"), format!("`{}` is not a unit that can be priced", unit.as_str()));
        return None;
    };
    let unit = match cache_ttl {
        Some(ttl) => {
            let field = format!("{field}.cacheTTL");
            let ttl_ms = reader.duration_ms(&field, Some(ttl))?;
            match cache_write_unit(unit, ttl_ms) {
                Some(unit) => unit,
                None => {
                    reader.invalid(
                        field,
                        "prices of cache writes differ by 5m, 1h and 12h, and for unit CacheWriteToken only",
                    );
                    return None;
                }
            }
        }
        None => unit,
    };
    let usd = price.get().map_err(|error| reader.invalid(format!("{field}.price"), error.to_string())).ok()?;
    let per = reader.at_least(&format!("{field}.per"), 1, Some(*per))?;
    let above = reader.at_least(&format!("{field}.aboveInputTokens"), 0, Some(*above_input_tokens))?;
    let above_input_tokens = (above > 0).then_some(above);
    Some(Part { unit, usd, per, above_input_tokens, service_tier: service_tier.map(tier) })
}

fn cache_write_unit(unit: Unit, ttl_ms: u64) -> Option<Unit> {
    const MINUTE_MS: u64 = 60_000;
    const HOUR_MS: u64 = 60 * MINUTE_MS;
    if unit != Unit::CacheWriteToken {
        return None;
    }
    match ttl_ms {
        t if t == 5 * MINUTE_MS => Some(Unit::CacheWriteToken),
        t if t == HOUR_MS => Some(Unit::CacheWrite1hToken),
        t if t == 12 * HOUR_MS => Some(Unit::CacheWrite12hToken),
        _ => None,
    }
}

fn tier(tier: ServiceTier) -> price::ServiceTier {
    match tier {
        ServiceTier::Batch => price::ServiceTier::Batch,
        ServiceTier::Flex => price::ServiceTier::Flex,
        ServiceTier::Priority => price::ServiceTier::Priority,
        ServiceTier::Balanced => price::ServiceTier::Balanced,
        ServiceTier::Ultrafast => price::ServiceTier::Ultrafast,
        ServiceTier::Decisions => price::ServiceTier::Decisions,
    }
}
