//! What the API server is asked: for lists in pages, and for watches.

use super::arrival::Arrival;
use super::client::Made;
use futures_util::Stream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

/// A page of a list. An object that can't be read must not cost the others.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    /// As they were sent: each is read by itself, and nothing else is kept of it.
    pub(super) items: Option<Vec<Box<RawValue>>>,
}

/// Asks for a page. The library's own way fails if one object can't be read, and logs the whole page.
pub(super) async fn page(made: &Made, url: &str, parameters: &ListParams) -> kube::Result<Page> {
    let request = Request::new(url).list(parameters);
    let text = made.client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
    serde_json::from_str(&text).map_err(kube::Error::SerdeError)
}

/// Asks for a watch. `arrival` is told when bytes of it are read.
pub(super) async fn events<T>(
    made: &Made,
    url: &str,
    parameters: &WatchParams,
    position: &str,
    arrival: &Arrival,
) -> kube::Result<impl Stream<Item = kube::Result<WatchEvent<T>>> + use<T>>
where
    T: Clone + DeserializeOwned,
{
    let request = Request::new(url).watch(parameters, position);
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    request.extensions_mut().insert(arrival.clone());
    made.client.request_events::<T>(request).await
}

/// The `namespace/name` of an object that can't be read otherwise.
pub(super) fn key(object: &Value) -> Option<String> {
    let name = text(object, "name")?;
    let namespace = text(object, "namespace");
    Some(namespace.map_or_else(|| name.to_owned(), |space| format!("{space}/{name}")))
}

/// The same of one as it was sent and is no `T`, and what is wrong with it: in the words of a watch, which has
/// no places in a line.
pub(super) fn raw_fault<T: DeserializeOwned>(object: &RawValue) -> (Option<String>, String) {
    let read = |object: &Value| T::deserialize(object).err();
    match serde_json::from_str(object.get()) {
        Ok(object) => {
            (key(&object), read(&object).map(|error| error.to_string()).unwrap_or_default())
        }
        Err(error) => (None, error.to_string()),
    }
}

/// A text of its metadata.
pub(super) fn text<'o>(object: &'o Value, field: &str) -> Option<&'o str> {
    object.get("metadata")?.get(field)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    #[test]
    fn what_an_object_is_called_that_is_none() {
        for (object, expected) in [
            (r#"{"metadata":{"namespace":"a","name":"b"},"spec":{"ports":7}}"#, Some("a/b")),
            (r#"{"metadata":{"name":"n1"},"spec":7}"#, Some("n1")),
            (r#"{"metadata":{"name":7}}"#, None),
            (r#"{"metadata":[]}"#, None),
            ("7", None),
        ] {
            let page: Page = serde_json::from_str(&format!(r#"{{"items":[{object}]}}"#)).unwrap();
            let (key, fault) = raw_fault::<Service>(&page.items.unwrap()[0]);
            assert_eq!(key.as_deref(), expected, "{object}");
            assert!(fault.starts_with("invalid type: ") && !fault.contains(" line "), "{fault}");
        }
    }
}
