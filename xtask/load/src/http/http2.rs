//! An HTTP/2 client over the h2 crate, with prior knowledge.

use std::future::poll_fn;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Request;
use tokio::net::TcpStream;

use super::answer::Answer;

/// What a stream and a connection may have under way: no answer waits for credit.
const WINDOW: u32 = 16 << 20;

pub struct Http2(SendRequest<Bytes>);

impl Http2 {
    pub async fn new(stream: TcpStream) -> Result<Self> {
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (send, connection) =
            builder.handshake(stream).await.context("the server does not speak HTTP/2")?;
        // Its errors are the requests' errors too.
        tokio::spawn(async { drop(connection.await) });
        Ok(Self(send))
    }

    pub async fn exchange(&mut self, request: Request<()>) -> Result<Answer> {
        poll_fn(|context| self.0.poll_ready(context)).await.context("the connection has ended")?;
        let (response, _) = self.0.send_request(request, true).context("the request could not be sent")?;
        let response = response.await.context("the request was not answered")?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let length = data.context("the answer could not be read")?.len();
            body.flow_control().release_capacity(length).context("the window could not be opened")?;
            bytes += length as u64;
        }
        Ok(Answer { status, bytes, keep: true })
    }
}
