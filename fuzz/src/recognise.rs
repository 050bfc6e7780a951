//! A path is a route's in the same way for every method, and names a model only if it asks for one or for the
//! list of them; the model is the path's text, decoded.

use http::Method;

// The file alone: the crate around it brings a TLS library, minutes to build.
#[allow(dead_code)]
#[path = "../../dataplane/src/recognise.rs"]
mod router;

use router::{Handler, Recognised, recognise};

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    let Ok(path) = std::str::from_utf8(input) else { return };
    let [get, head, post, delete] =
        [Method::GET, Method::HEAD, Method::POST, Method::DELETE].map(|method| recognise(&method, path));
    assert_eq!(get, head);
    match (&get, &post) {
        (Recognised::NotFound, other) | (other, Recognised::NotFound) => assert_eq!(*other, Recognised::NotFound),
        _ => assert_eq!(delete, Recognised::WrongMethod),
    }
    for recognised in [&get, &post] {
        let Recognised::Route { handler, model } = recognised else { continue };
        let names_one = matches!(handler, Handler::Forward(_) | Handler::Models | Handler::Model);
        assert!(names_one || model.is_none(), "{recognised:?}");
        if let Some(model) = model {
            assert!(!model.is_empty());
            assert!(path.contains(&**model) || decoded(path).contains(&**model), "{path:?}: {model:?}");
        }
    }
}

/// The whole path, percent-decoded as text.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let pair = after.get(..2).filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.push(b'%'),
        }
        rest = if pair.is_some() { &after[2..] } else { after };
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}
