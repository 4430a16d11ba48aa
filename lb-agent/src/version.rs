//! Which build this is.

/// Version, commit and version of the table layout: `0.1.0 (commit 0123456789ab, table layout 1)`. The
/// build script makes it.
pub const VERSION: &str = env!("LB_VERSION");

#[cfg(test)]
mod tests {
    use super::VERSION;

    #[test]
    fn it_names_the_table_layout() {
        let layout = format!("table layout {})", lb_common::LAYOUT_VERSION);
        assert!(VERSION.starts_with(concat!(env!("CARGO_PKG_VERSION"), " (")), "{VERSION}");
        assert!(VERSION.ends_with(&layout), "{VERSION}");
    }
}
