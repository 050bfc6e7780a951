//! One dialect told in another, through the public interface only.

mod properties;
mod replies;
mod requests;
mod streams;
