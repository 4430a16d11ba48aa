//! What goes wrong on demand.

use super::kinds::Kind;
use super::store::Refusal;
use std::time::Duration;

/// The faults there are now. None at the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// The token that is asked for.
    pub(super) token: Option<String>,
    /// Plural and code: requests for these are refused.
    pub(super) codes: Vec<(String, u16)>,
    /// Before every response.
    pub(super) delay: Duration,
    /// Watches say nothing more, and don't end.
    pub(super) silent: bool,
    /// Watches that begin with a list are refused, as by an older server.
    pub(super) no_streaming_lists: bool,
}

// === impl Faults ===

impl Faults {
    /// Whether a request is refused; `authorization` is its header.
    pub(super) fn refusal(
        &self,
        kind: Option<&Kind>,
        verb: &str,
        authorization: &str,
    ) -> Option<Refusal> {
        if let Some(token) = &self.token
            && authorization.strip_prefix("Bearer ") != Some(token)
        {
            return Some(Refusal::new(401, "Unauthorized"));
        }
        let plural = kind?.plural;
        let (_, code) = self.codes.iter().find(|(name, _)| name == plural)?;
        let group = kind?.group;
        let message = match code {
            403 => format!(
                "{plural} is forbidden: User \"test\" cannot {verb} resource \"{plural}\" in API \
                 group \"{group}\" at the cluster scope"
            ),
            404 => "the server could not find the requested resource".to_owned(),
            code => format!("refused on demand with {code}"),
        };
        Some(Refusal::new(*code, message))
    }
}
