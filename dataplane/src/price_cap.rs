//! The most that a provider may pay where it passes a call on: it chooses whom it asks, and bills what that costs. Under a
//! hard budget it is told the rates that were held, in the words that it has for it.

use bytes::Bytes;
use serde_json::{Map, Value};
use tollgate_dialects::json::{self, Field};
use tollgate_dialects::splice::{Pieces, Splice};
use tollgate_snapshot::catalogue::PriceCap;
use tollgate_snapshot::money::Rate;
use tollgate_snapshot::price::MostPaid;

use crate::error::{GatewayError, Result};

/// The field that says whom the provider may ask.
const FIELD: &str = "provider";

/// Adds the rates to a request as it leaves. What stands there already is the deployment's own: it stays, and a lower cap does.
///
/// # Errors
/// The body is not an object, which it was when it was read.
pub fn write(pieces: Pieces, cap: PriceCap, most: &MostPaid) -> Result<Pieces> {
    let PriceCap::MaxPrice = cap;
    let body = pieces.into_bytes();
    let mut present: Vec<Field> = Vec::new();
    let read = json::fields(&body, |key, field| {
        if key == FIELD.as_bytes() {
            present.push(field);
        }
    });
    let layout = read.map_err(|_| GatewayError::Internal { reason: "a body of ours is not an object" })?;
    let own = present.last().and_then(|field| serde_json::from_slice(field.of(&body)).ok());
    let mut splice = Splice::default();
    present.iter().for_each(|field| splice.remove(*field));
    splice.insert(FIELD, Bytes::from(capped(own, most).to_string()));
    Ok(splice.apply(&body, layout))
}

/// The field with the rates in it.
fn capped(own: Option<Value>, most: &MostPaid) -> Value {
    let take = |value: Option<Value>| match value {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let mut provider = take(own);
    let mut prices = take(provider.remove("max_price"));
    let MostPaid { input, output, request } = *most;
    for (name, rate, units) in
        [("prompt", input, 1_000_000), ("completion", output, 1_000_000), ("request", request, 1)]
    {
        let lower = prices.get(name).and_then(|own| own_rate(own, units)).filter(|own| *own <= rate);
        if lower.is_none() {
            let text = if units == 1 { rate.to_decimal_text() } else { rate.to_per_million_text() };
            prices.insert(name.to_owned(), text.into());
        }
    }
    provider.insert("max_price".to_owned(), prices.into());
    provider.into()
}

fn own_rate(own: &Value, units: u64) -> Option<Rate> {
    match own {
        Value::String(text) => Rate::parse_per(text, units).ok(),
        Value::Number(number) => Rate::parse_per(&number.to_string(), units).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(body: &str) -> Value {
        let rate = |text: &str| Rate::parse_per_million(text).expect("a rate");
        let most = MostPaid { input: rate("2.5"), output: rate("10"), request: Rate::parse("0.001").expect("a rate") };
        let body = Bytes::copy_from_slice(body.as_bytes());
        let layout = json::fields(&body, |_, _| {}).expect("an object");
        let pieces = write(Splice::default().apply(&body, layout), PriceCap::MaxPrice, &most).expect("an object");
        serde_json::from_slice(&pieces.into_bytes()).expect("JSON")
    }

    #[test]
    fn the_rates_stand_beside_what_the_deployment_says_and_a_lower_cap_of_its_own_stays() {
        let all = serde_json::json!({"prompt": "2.5", "completion": "10", "request": "0.001"});
        assert_eq!(written("{}")["provider"]["max_price"], all);
        let twice = written(r#"{"provider":null,"model":"m","provider":[]}"#);
        assert_eq!((&twice["provider"]["max_price"], &twice["model"]), (&all, &"m".into()));
        let own = written(
            r#"{"provider":{"sort":"price","max_price":{"prompt":1,"completion":"20","request":"x","image":"0.1"}},"n":1}"#,
        );
        let expected = serde_json::json!({"prompt": 1, "completion": "10", "request": "0.001", "image": "0.1"});
        assert_eq!((&own["provider"]["max_price"], &own["provider"]["sort"]), (&expected, &"price".into()));
    }
}
