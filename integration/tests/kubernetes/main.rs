//! The agent in a Kubernetes cluster that the tests play.

mod api_itself;
