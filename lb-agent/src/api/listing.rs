//! `/v1/services`: everything, piece by piece. The answer for 10,000 services has 30 MB; whoever
//! takes it slowly holds a piece of it in memory, and the state that it tells of.

use super::{Failure, Parts};
use crate::status::{Counters, ServiceStatus};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt as _};
use hyper::body::Bytes;
use std::sync::Arc;
use std::vec;

/// Bytes after which a piece ends, with the services that are being written.
const PIECE: usize = 128 * 1024;
/// Services whose counters are read at a time.
const AT_ONCE: usize = 16;

/// Services that are still to be told.
pub(super) struct Listing {
    left: vec::IntoIter<Arc<ServiceStatus>>,
    begun: bool,
}

// === impl Listing ===

impl Listing {
    /// These, in their order; counters are read when their turn comes.
    pub(super) fn new(services: Vec<Arc<ServiceStatus>>) -> Self {
        Self { left: services.into_iter(), begun: false }
    }

    /// The answer. Its first piece is there before it begins, so that what can't be read is told.
    pub(super) async fn answer(self, parts: Parts) -> Result<Response, Failure> {
        let (first, rest) = self.next(&parts).await?;
        let body = match rest {
            None => Body::from(first),
            Some(rest) => {
                let pieces = stream::unfold(Some((parts, rest)), |state| async move {
                    let (parts, listing) = state?;
                    Some(match listing.next(&parts).await {
                        Ok((piece, rest)) => (Ok(piece), rest.map(|rest| (parts, rest))),
                        // The connection ends: half an answer must not look like a whole one.
                        Err(failure) => (Err(failure.error), None),
                    })
                });
                Body::from_stream(stream::iter([Ok(first)]).chain(pieces))
            }
        };
        Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// The next piece, and what is left.
    async fn next(mut self, parts: &Parts) -> Result<(Bytes, Option<Self>), Failure> {
        let read = parts.read_kernel(move |counters| {
            let piece = self.piece(counters)?;
            let rest = (self.left.len() > 0).then_some(self);
            Ok((piece.into(), rest))
        });
        read.await
    }

    /// A piece of a JSON array.
    fn piece(&mut self, counters: &dyn Counters) -> anyhow::Result<Vec<u8>> {
        let mut piece = Vec::new();
        if !self.begun {
            piece.push(b'[');
        }
        while piece.len() < PIECE && self.left.len() > 0 {
            let services = self.left.by_ref().take(AT_ONCE).map(Arc::unwrap_or_clone);
            let mut services: Vec<_> = services.collect();
            counters.fill(&mut services)?;
            for service in &services {
                if self.begun {
                    piece.push(b',');
                }
                serde_json::to_writer(&mut piece, service)?;
                self.begun = true;
            }
        }
        if self.left.len() == 0 {
            piece.push(b']');
        }
        Ok(piece)
    }
}
