//! Services as YAML text, for tests that generate them.

use std::fmt::{self, Display, Write as _};

/// A service, printed as an item of the `services:` list.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    name: String,
    frontends: Vec<String>,
    backends: Vec<String>,
    settings: Vec<String>,
}

/// A service without frontends and backends.
pub fn service(name: impl Into<String>) -> Spec {
    Spec { name: name.into(), ..Spec::default() }
}

/// The `services:` section of a file.
pub fn services(specs: &[Spec]) -> String {
    if specs.is_empty() {
        return "services: []\n".to_owned();
    }
    specs.iter().fold("services:\n".to_owned(), |mut text, spec| {
        write!(text, "{spec}").expect("writing to a string succeeds");
        text
    })
}

impl Spec {
    /// Adds a frontend: `10.96.0.10:80`, `10.96.0.10:53/udp`.
    pub fn frontend(mut self, frontend: impl Display) -> Self {
        self.frontends.push(format!("\"{frontend}\""));
        self
    }

    /// Adds a UDP frontend.
    pub fn udp(self, frontend: impl Display) -> Self {
        self.frontend(format!("{frontend}/udp"))
    }

    /// Adds a TCP frontend that is for the host's network namespace only.
    pub fn host_frontend(mut self, frontend: impl Display) -> Self {
        self.frontends.push(format!("{{address: \"{frontend}\", scope: host}}"));
        self
    }

    /// Adds a backend.
    pub fn backend(mut self, address: impl Display) -> Self {
        self.backends.push(format!("\"{address}\""));
        self
    }

    /// Adds backends.
    pub fn backends<A: Display>(self, addresses: impl IntoIterator<Item = A>) -> Self {
        addresses.into_iter().fold(self, Self::backend)
    }

    /// Adds a backend with more said of it: `weight: 3`.
    pub fn backend_with(mut self, address: impl Display, more: impl Display) -> Self {
        self.backends.push(format!("{{address: \"{address}\", {more}}}"));
        self
    }

    /// Adds a line to the service: `policy: least_connections`.
    pub fn with(mut self, setting: impl Into<String>) -> Self {
        self.settings.push(setting.into());
        self
    }
}

impl Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, frontends, backends, settings } = self;
        writeln!(f, "  - name: {name}")?;
        writeln!(f, "    frontends: [{}]", frontends.join(", "))?;
        writeln!(f, "    backends: [{}]", backends.join(", "))?;
        settings.iter().try_for_each(|setting| writeln!(f, "    {setting}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_yaml() {
        assert_eq!(services(&[]), "services: []\n");
        let web = service("web")
            .frontend("10.0.0.1:80")
            .udp("10.0.0.1:53")
            .host_frontend("10.0.0.2:80")
            .backend("127.0.0.1:8080")
            .backend_with("127.0.0.1:8081", "weight: 2")
            .with("policy: least_connections");
        assert_eq!(
            services(&[web]),
            concat!(
                "services:\n",
                "  - name: web\n",
                "    frontends: [\"10.0.0.1:80\", \"10.0.0.1:53/udp\", ",
                "{address: \"10.0.0.2:80\", scope: host}]\n",
                "    backends: [\"127.0.0.1:8080\", {address: \"127.0.0.1:8081\", weight: 2}]\n",
                "    policy: least_connections\n",
            )
        );
    }
}
