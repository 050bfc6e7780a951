//! The way in: clients' connections, HTTP/1.1 read and written by hand, because here most of the gateway's own time would
//! go otherwise. Knows framing, keep-alive and the clock of a connection; what a request means is the pipeline's.

mod body;
mod connection;
mod head;
mod out;
mod stream;
mod wire;

pub use body::{BodyUnread, RequestBody};
pub use connection::serve;
pub use out::push_date;
pub use stream::ClientStream;
