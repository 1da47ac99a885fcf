//! Real applications, each in a pod, each listening when its function returns.

mod dropbear;
mod iperf;
mod nginx;
mod postgres;
mod python;
mod redis;

pub use dropbear::{Dropbear, dropbear};
pub use iperf::iperf3;
pub use nginx::{nginx, nginx_http2};
pub use postgres::{Postgres, postgres};
pub use python::{Conversation, converse, echo, python};
pub use redis::redis;
