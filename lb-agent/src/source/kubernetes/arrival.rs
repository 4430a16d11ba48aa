//! When the bytes of an answer arrived.
//!
//! An event counts as heard of when its last byte was read, not when it has been understood.

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::{Body, Bytes};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// When the last bytes of an answer were read. As an extension of a request, it is told of those of
/// its answer. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    last: Arc<Mutex<Instant>>,
}

// === impl Arrival ===

impl Arrival {
    /// Just now, until there are bytes.
    pub(super) fn new() -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())) }
    }

    /// When it was.
    pub(super) fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// The response to a request that has this extension, or none: it is told when bytes are read.
pub(super) fn noted<B>(
    arrival: Option<Arrival>,
    response: Response<B>,
) -> Response<impl Body<Data = Bytes, Error = B::Error>>
where
    B: Body<Data = Bytes>,
{
    response.map(|body| {
        body.map_frame(move |frame| {
            if let Some(arrival) = &arrival {
                arrival.note();
            }
            frame
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn bytes_are_noted_when_they_are_read() {
        let arrival = Arrival::new();
        let body = Full::new(Bytes::from_static(b"event"));
        let response = noted(Some(arrival.clone()), Response::new(body));
        let before = arrival.last();
        let read = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(read, "event");
        assert!(arrival.last() > before);
    }
}
