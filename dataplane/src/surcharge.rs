//! What a call may ask for that multiplies its whole price: Anthropic's `speed: fast` and `inference_geo: us`. Looked for
//! only where the model's price has such factors, so that other calls pay nothing for it.

use tollgate_dialects::json;
use tollgate_snapshot::model::{Deployment, Name, Parameters};

use crate::call::Call;

/// Which factors a call asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surcharge {
    fast: bool,
    us: bool,
}

impl Surcharge {
    /// Of a call at a deployment.
    pub fn of(call: &Call, deployment: &Deployment) -> Surcharge {
        match &deployment.price {
            Some(price) if !price.multipliers().is_empty() => Surcharge::asked_for(&call.body, deployment),
            _ => Surcharge::default(),
        }
    }

    /// What stands in the body that is sent: what is forced, else what the client wrote, else the default.
    fn asked_for(body: &[u8], deployment: &Deployment) -> Surcharge {
        let mut surcharge = Surcharge::default();
        // A name may be written with escapes; without them it stands there as it is.
        let has_escapes = memchr::memmem::find(body, b"\\u").is_some();
        let may_have = |name: &str| has_escapes || memchr::memmem::find(body, name.as_bytes()).is_some();
        for (name, wanted, is_asked) in
            [("speed", "fast", &mut surcharge.fast), ("inference_geo", "us", &mut surcharge.us)]
        {
            let Parameters { defaults, forced, drop } = &deployment.parameters;
            let set = |list: &[(Name, Name)]| {
                let (_, text) = list.iter().find(|(known, _)| **known == *name)?;
                Some(serde_json::from_str::<String>(text).is_ok_and(|text| text == wanted))
            };
            let is_dropped = drop.iter().any(|dropped| **dropped == *name);
            let of_client = || if !is_dropped && may_have(name) { client_wants(body, name, wanted) } else { None };
            *is_asked = set(forced).or_else(of_client).or_else(|| set(defaults)).unwrap_or(false);
        }
        surcharge
    }

    /// As prices name it.
    pub fn speed(self) -> Option<&'static str> {
        self.fast.then_some("fast")
    }

    /// As prices name it.
    pub fn region(self) -> Option<&'static str> {
        self.us.then_some("us")
    }
}

/// Whether a field at the top of the body has this text; of several, any. `None`: there is no such field.
fn client_wants(body: &[u8], name: &str, wanted: &str) -> Option<bool> {
    let mut found = None;
    let read = json::fields(body, |key, field| {
        if key == name.as_bytes() {
            let is_wanted = field.text(body).is_some_and(|text| text == wanted);
            found = Some(found.unwrap_or(false) || is_wanted);
        }
    });
    read.ok()?;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: &str, parameters: Parameters) -> (Option<&'static str>, Option<&'static str>) {
        let deployment = Deployment { parameters, ..Deployment::default() };
        let surcharge = Surcharge::asked_for(body.as_bytes(), &deployment);
        (surcharge.speed(), surcharge.region())
    }

    #[test]
    fn only_the_bodys_own_fields_count() {
        let none = Parameters::default;
        assert_eq!(asked(r#"{"speed":"fast","inference_geo":"us"}"#, none()), (Some("fast"), Some("us")));
        assert_eq!(asked(r#"{"speed":"standard","inference_geo":"global"}"#, none()), (None, None));
        assert_eq!(asked(r#"{"messages":[{"speed":"fast"}],"metadata":{"inference_geo":"us"}}"#, none()), (None, None));
        assert_eq!(asked(r#"{"messages":"speed fast"}"#, none()), (None, None));
        assert_eq!(asked(r#"{"sp\u0065ed":"f\u0061st"}"#, none()), (Some("fast"), None));
        assert_eq!(asked(r#"{"speed":"fast","speed":"standard"}"#, none()), (Some("fast"), None));
    }

    #[test]
    fn what_the_deployment_sets_is_what_is_sent() {
        let fast: Vec<_> = vec![("speed".into(), "\"fast\"".into())];
        let slow: Vec<_> = vec![("speed".into(), "\"standard\"".into())];
        let forced = |list: &Vec<_>| Parameters { forced: list.clone(), ..Parameters::default() };
        let defaults = |list: &Vec<_>| Parameters { defaults: list.clone(), ..Parameters::default() };
        let dropped = Parameters { drop: vec!["speed".into()], ..Parameters::default() };
        for (body, parameters, expected) in [
            ("{}", forced(&fast), Some("fast")),
            ("{}", defaults(&fast), Some("fast")),
            (r#"{"speed":"fast"}"#, forced(&slow), None),
            (r#"{"speed":"standard"}"#, defaults(&fast), None),
            (r#"{"speed":"fast"}"#, dropped, None),
        ] {
            assert_eq!(asked(body, parameters.clone()).0, expected, "{body} {parameters:?}");
        }
    }
}
