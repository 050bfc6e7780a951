//! What a deployment's calls cost: what its resource states, else what the price table says.

use tollgate_crds::{PerMillionTokens, Pricing, Rate, ServiceTier};

use super::report::{Report, Subject};
use super::values::Reader;
use crate::catalogue::Provider;
use crate::finding::Reason;
use crate::price::{self, ModelPrice, Part, PriceSheet, PriceTable, Unit};

/// What is known of a model.
#[derive(Debug, Default)]
pub(super) struct Priced {
    pub sheet: Option<PriceSheet>,
    pub max_input_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
}

/// How many tokens the rates of `perMillionTokens` are for.
const MILLION: u64 = 1_000_000;

/// `None`: what is written cannot be used.
pub(super) fn price(
    pricing: Option<&Pricing>,
    provider: &Provider,
    model: &str,
    subject: Subject<'_>,
    report: &mut Report,
) -> Option<Priced> {
    let listed = PriceTable::embedded().find(provider.id, model, None);
    let Some(pricing) = pricing else {
        if listed.is_none() {
            let message = format!("the price table does not know model `{model}` of provider `{}`", provider.id);
            report.warning(subject, Reason::PriceUnknown, "spec.pricing", message).hint =
                "state it in spec.pricing: perMillionTokens, like, or free: true; Hard budgets refuse calls without a price"
                    .to_owned();
        }
        return Some(priced(listed.as_ref(), listed.as_ref().map(ModelPrice::sheet)));
    };
    let Pricing { per_million_tokens, free, like, rates } = pricing;
    let stated = per_million_tokens.is_some() || like.is_some() || !rates.is_empty();
    if *free == stated {
        let message = if stated { "free excludes perMillionTokens, like and rates" } else { "it states no price" };
        report.error(subject, Reason::ExactlyOne, "spec.pricing", message);
        return None;
    }
    if *free {
        return Some(priced(listed.as_ref(), Some(PriceSheet::free())));
    }
    let base = match like {
        Some(like) => match PriceTable::embedded().find_like(like) {
            Some(base) => Some(base),
            None => {
                let message = format!("the price table does not know `{like}`");
                report.error(subject, Reason::PriceUnknown, "spec.pricing.like", message).hint =
                    "write provider/model, as in azure/gpt-4o".to_owned();
                return None;
            }
        },
        None => None,
    };
    let mut reader = Reader::new(report, subject);
    let parts = parts(per_million_tokens.as_ref(), rates, &mut reader);
    if reader.broken {
        return None;
    }
    let version = format!("{}/{}", subject.namespace, subject.name);
    let sheet = match &base {
        Some(base) if parts.is_empty() => Ok(base.sheet()),
        Some(base) => base.sheet().with_parts(&format!("{version} over {}", base.sheet().version()), &parts),
        None => PriceSheet::from_parts(&version, &parts),
    };
    match sheet {
        Ok(sheet) => Some(priced(base.as_ref().or(listed.as_ref()), Some(sheet))),
        Err(error) => {
            report.error(subject, Reason::InvalidValue, "spec.pricing", error.to_string());
            None
        }
    }
}

fn priced(model: Option<&ModelPrice>, sheet: Option<PriceSheet>) -> Priced {
    Priced {
        sheet,
        max_input_tokens: model.and_then(|model| model.max_input_tokens),
        max_output_tokens: model.and_then(|model| model.max_output_tokens),
    }
}

fn parts<'p>(
    per_million: Option<&'p PerMillionTokens>,
    rates: &'p [Rate],
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
                    reader.invalid(format!("spec.pricing.perMillionTokens.{name}"), error.to_string());
                }
                None => {}
            }
        }
        if parts.is_empty() && !reader.broken {
            reader.invalid("spec.pricing.perMillionTokens", "it states no rate");
        }
    }
    for (at, rate) in rates.iter().enumerate() {
        let field = format!("spec.pricing.rates[{at}]");
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
