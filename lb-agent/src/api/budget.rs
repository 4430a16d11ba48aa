//! How much may wait for clients who take their answers slowly. A large answer that would be too much is
//! refused: whoever asks again in a moment gets it.

use super::Failure;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Kilobytes of large answers that are under way, all clients of a listener together.
const KILOBYTES: u32 = 64 * 1024;
/// Bytes of an answer that is not counted.
const SMALL: u64 = 64 * 1024;

/// What is left.
#[derive(Clone)]
pub(super) struct Budget(Arc<Semaphore>);

/// An answer that counts until its last byte was taken.
struct Counted {
    body: Body,
    permit: Arc<OwnedSemaphorePermit>,
}

/// A part of it, which is counted as long as it waits to be sent.
struct Part {
    data: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Counts the answers of a router. Those without a known length are made piece by piece as they are
/// taken, so there is little of them.
pub(super) async fn counted(
    State(Budget(left)): State<Budget>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let Some(length) = response.body().size_hint().exact().filter(|length| *length > SMALL) else {
        return response;
    };
    // What is larger than everything has to wait until there is nothing else.
    let kilobytes = u32::try_from(length.div_ceil(1024)).unwrap_or(KILOBYTES).min(KILOBYTES);
    match left.try_acquire_many_owned(kilobytes) {
        Ok(permit) => response.map(|body| Body::new(Counted { body, permit: Arc::new(permit) })),
        Err(_) => {
            let error = "too many large answers are under way; ask again in a moment".to_owned();
            let failure = Failure { status: StatusCode::SERVICE_UNAVAILABLE, error };
            ([(RETRY_AFTER, HeaderValue::from_static("1"))], failure).into_response()
        }
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(KILOBYTES as usize)))
    }
}

// === impl Counted ===

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let permit = Arc::clone(&self.permit);
        let counted = |data| Bytes::from_owner(Part { data, _permit: permit });
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(counted))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Part ===

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, KILOBYTES, counted};
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Path;
    use axum::http::{Request, Response, StatusCode};
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn ask(router: &Router, kilobytes: u32) -> Response<Body> {
        let request = Request::get(format!("/{kilobytes}")).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn what_waits_is_counted_until_it_is_gone() {
        let answer = |Path(kilobytes): Path<usize>| async move { vec![0u8; kilobytes * 1024] };
        let router = Router::new()
            .route("/{kilobytes}", get(answer))
            .layer(from_fn_with_state(Budget::new(), counted));
        let mut large = ask(&router, KILOBYTES - 1000).await;
        assert_eq!(large.status(), StatusCode::OK);
        // Its length is told, as before.
        let length = u64::from(KILOBYTES - 1000) * 1024;
        assert_eq!(axum::body::HttpBody::size_hint(large.body()).exact(), Some(length));
        let refused = ask(&router, 1001).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(ask(&router, 1000).await.status(), StatusCode::OK);
        // Small ones always find room.
        let other = ask(&router, 1000).await;
        assert_eq!(ask(&router, 1).await.status(), StatusCode::OK);
        drop(other);
        // The body is over once its data was handed on, which is then still to be sent.
        let data = large.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(large.body_mut().frame().await.is_none());
        drop(large);
        assert_eq!(ask(&router, 1001).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(data);
        // More than there is, once there is nothing else.
        let all = ask(&router, KILOBYTES + 1).await;
        assert_eq!(all.status(), StatusCode::OK);
        assert_eq!(ask(&router, 100).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
