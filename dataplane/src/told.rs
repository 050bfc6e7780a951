//! Headers by which a gateway's own clients say who is behind a call and what it is for, beside those of LiteLLM. Names are
//! resolved when tables are built; a gateway without any pays nothing for a call.

use http::{HeaderMap, HeaderName};
use tollgate_snapshot::model::{self, Name};

use crate::call::{Options, header_text};

/// Which headers are read.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    end_user: Vec<HeaderName>,
    /// With the name as it is shown.
    tags: Vec<(HeaderName, Name)>,
}

impl Told {
    /// `None`: the gateway names none.
    pub fn of(gateway: &model::Gateway) -> Option<Box<Told>> {
        let model::Gateway { end_user_headers, tag_headers, .. } = gateway;
        if end_user_headers.is_empty() && tag_headers.is_empty() {
            return None;
        }
        // `compile` lets through none that is not a name; what compiled these tables may be of another version.
        let header = |name: &Name| HeaderName::try_from(&**name).ok();
        Some(Box::new(Told {
            end_user: end_user_headers.iter().filter_map(header).collect(),
            tags: tag_headers.iter().filter_map(|name| Some((header(name)?, name.clone()))).collect(),
        }))
    }

    /// Takes over what a call's headers tell. An end user that LiteLLM's own header names stays.
    #[cold]
    pub fn read(&self, headers: &HeaderMap, options: &mut Options) {
        if options.end_user.is_none() {
            options.end_user = self.end_user.iter().find_map(|name| text(headers, name));
        }
        for (name, shown) in &self.tags {
            let Some(text) = text(headers, name) else { continue };
            if *name == http::header::USER_AGENT
                && let Some((program, _)) = text.split_once('/')
            {
                options.tags.push(format!("{shown}: {program}"));
            }
            options.tags.push(format!("{shown}: {text}"));
        }
    }
}

/// Of repeated headers the first that says something.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut texts = headers.get_all(name).iter().map(|value| header_text(value.as_bytes()).trim().to_owned());
    texts.find(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn told(end_user: &[&str], tags: &[&str]) -> Option<Box<Told>> {
        let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect();
        Told::of(&model::Gateway {
            end_user_headers: names(end_user),
            tag_headers: names(tags),
            ..model::Gateway::default()
        })
    }

    fn read(told: &Told, headers: &[(&'static str, &[u8])]) -> (Option<String>, Vec<String>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let mut options = Options::read(&map);
        told.read(&map, &mut options);
        (options.end_user, options.tags)
    }

    #[test]
    fn the_first_header_that_says_something_names_the_end_user_after_that_of_litellm() {
        assert_eq!(told(&[], &[]), None);
        let told = told(&["x-openwebui-user-id", "x-openwebui-user-email"], &[]).unwrap();
        let user = |headers: &[(&'static str, &[u8])]| read(&told, headers).0;
        let (id, email): ((_, &[u8]), (_, &[u8])) =
            (("x-openwebui-user-id", b"u-1"), ("x-openwebui-user-email", b"a@b.c"));
        assert_eq!(user(&[email, id]).as_deref(), Some("u-1"));
        assert_eq!(user(&[email]).as_deref(), Some("a@b.c"));
        assert_eq!(user(&[("x-openwebui-user-id", b"  "), email]).as_deref(), Some("a@b.c"));
        assert_eq!(user(&[("x-openwebui-user-id", b""), id]).as_deref(), Some("u-1"));
        assert_eq!(user(&[id, ("x-litellm-end-user-id", b"named")]).as_deref(), Some("named"));
        assert_eq!(user(&[("x-openwebui-user-id", b"Jos\xe9")]).as_deref(), Some("José"));
        assert_eq!(user(&[("user-agent", b"curl")]), None);
    }

    #[test]
    fn headers_are_tags_with_their_names() {
        let told = told(&[], &["X-Project", "User-Agent"]).unwrap();
        let tags = |headers: &[(&'static str, &[u8])]| read(&told, headers).1;
        assert_eq!(
            tags(&[
                ("x-project", b" apollo, phase 2 "),
                ("x-litellm-tags", b"a,b"),
                ("user-agent", b"claude-cli/2.1 (x)")
            ]),
            ["a", "b", "X-Project: apollo, phase 2", "User-Agent: claude-cli", "User-Agent: claude-cli/2.1 (x)"]
        );
        assert_eq!(tags(&[("user-agent", b"curl")]), ["User-Agent: curl"]);
        assert_eq!(tags(&[("x-project", b"")]), [""; 0]);
    }
}
