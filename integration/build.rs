//! Tells the programs for which machine they were built: `TARGET`.

fn main() -> Result<(), std::env::VarError> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=TARGET={}", std::env::var("TARGET")?);
    Ok(())
}
