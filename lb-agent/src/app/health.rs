//! Wiring of health: the prober, word of failed connects, and what operators say.

use crate::config::Config;
use crate::dataplane::FailureReader;
use crate::health::prober;
use crate::model::Overrides;
use crate::monitor::{Links, Monitor};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Starts everything that watches backends. To be called once the tables are there.
pub(super) fn start(config: &Config, overrides: watch::Receiver<Arc<Overrides>>) -> Monitor {
    let (wanted, reports) = prober::spawn(prober::Settings::default());
    let (sender, failures) = mpsc::channel(16);
    match FailureReader::open(&config.pin_dir) {
        Ok(reader) => drop(tokio::spawn(read_failures(reader, sender))),
        // Where the kernel can't tell, the agent has said so already.
        Err(error) => tracing::debug!(%error, "failed connects are not heard of"),
    }
    Monitor::new(config.zone.clone(), Links { wanted, reports, failures, overrides })
}

async fn read_failures(
    mut reader: FailureReader,
    sender: mpsc::Sender<Vec<crate::dataplane::Failure>>,
) {
    loop {
        match reader.next().await {
            Ok(failures) => {
                if sender.send(failures).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "failed connects are not heard of any more; restart the agent");
                return;
            }
        }
    }
}
