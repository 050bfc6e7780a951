//! What is promised of rows in PostgreSQL: each attempt is there once, whatever dies, and reports are the sums of rows.

mod gateway;
mod kills;
mod retention;
mod tls;
mod writing;
