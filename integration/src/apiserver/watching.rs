//! Watches: lines of JSON without end.

use super::kinds::Kind;
use super::selector::Selector;
use super::serve::Shared;
use super::store::Refusal;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, interval, sleep_until};

/// What a watch was asked for.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) kind: &'static Kind,
    pub(super) selector: Selector,
    /// Everything up to here is known; with `None` the watch begins with what there is.
    pub(super) since: Option<u64>,
    /// Whether the end of the beginning is marked.
    pub(super) mark_initial: bool,
    pub(super) bookmarks: bool,
    pub(super) timeout: Duration,
}

/// A body that is sent line by line.
struct Lines(Receiver<Bytes>);

/// The client is gone.
struct Gone;

// === impl Watch ===

impl Watch {
    /// Begins; the returned body ends with the watch.
    pub(super) fn start(self, shared: Arc<Shared>) -> Body {
        let (lines, body) = channel(16);
        tokio::spawn(async move {
            // A client that is gone ends it, too.
            let _ = self.run(&shared, &lines).await;
        });
        Body::new(Lines(body))
    }

    async fn run(self, shared: &Shared, lines: &Sender<Bytes>) -> Result<(), Gone> {
        let end = Instant::now() + self.timeout;
        let mut changes = shared.changes();
        let mut bookmarks = interval(shared.bookmark_interval());
        bookmarks.tick().await;
        let mut since = self.begin(shared, lines).await?;
        loop {
            changes.borrow_and_update();
            if !shared.faults().silent {
                since = match self.send_news(shared, lines, since).await? {
                    Some(since) => since,
                    None => return Ok(()),
                };
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = bookmarks.tick(), if self.bookmarks => {
                    if !shared.faults().silent {
                        send(lines, self.bookmark(since, false)).await?;
                    }
                }
                () = sleep_until(end), if !shared.faults().silent => return Ok(()),
                () = lines.closed() => return Err(Gone),
            }
        }
    }

    /// Sends what there is, if that was asked for. Returns up to where the client knows everything.
    async fn begin(&self, shared: &Shared, lines: &Sender<Bytes>) -> Result<u64, Gone> {
        if let Some(since) = self.since {
            return Ok(since);
        }
        let (version, objects) = {
            let store = shared.store();
            (store.version(), store.select(self.kind, &self.selector))
        };
        for object in objects {
            send(lines, json!({"type": "ADDED", "object": &*object})).await?;
        }
        if self.mark_initial {
            send(lines, self.bookmark(version, true)).await?;
        }
        Ok(version)
    }

    /// `None` if the watch is over.
    async fn send_news(
        &self,
        shared: &Shared,
        lines: &Sender<Bytes>,
        since: u64,
    ) -> Result<Option<u64>, Gone> {
        let (version, news) = {
            let store = shared.store();
            (store.version(), store.since(self.kind, &self.selector, since))
        };
        match news {
            Ok(news) => {
                for news in news {
                    send(lines, json!({"type": news.what, "object": &*news.object})).await?;
                }
                Ok(Some(version))
            }
            Err(expired) => {
                send(lines, error(&expired)).await?;
                Ok(None)
            }
        }
    }

    fn bookmark(&self, version: u64, initial: bool) -> Value {
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (api_version, kind) = (self.kind.api_version(), self.kind.kind);
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        json!({"type": "BOOKMARK", "object": object})
    }
}

fn error(refusal: &Refusal) -> Value {
    json!({"type": "ERROR", "object": refusal.status()})
}

async fn send(lines: &Sender<Bytes>, line: Value) -> Result<(), Gone> {
    let line = Bytes::from(format!("{line}\n"));
    lines.send(line).await.map_err(|_| Gone)
}

// === impl Lines ===

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
