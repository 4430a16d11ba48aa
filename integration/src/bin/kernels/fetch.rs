//! A kernel from a Debian suite, with the machine's own package tools but lists of its own: nothing
//! is installed, and nothing that is installed is looked at.

use crate::{note, output};
use anyhow::Context;
use integration::kernels::Kernel;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The smallest kernel that has all that is needed, emulated devices included.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Debian's packages can't be had here; whatever else goes wrong is a failure.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// A kernel that has been fetched.
pub(crate) struct Files {
    /// What boots.
    pub(crate) image: PathBuf,
    /// Above `lib/modules`.
    pub(crate) root: PathBuf,
    /// Version, as the directory of modules has it.
    pub(crate) release: String,
}

/// Fetches the suite's current kernel into `place`, unless it is there. An error is [`Unavailable`] if there
/// is nothing to fetch, or no way to it.
pub(crate) fn fetch(kernel: &Kernel, place: &Path) -> anyhow::Result<Files> {
    let root = place.join("kernel");
    let marker = place.join("package");
    let have = fs::read_to_string(&marker).ok();
    let apt = match Apt::new(kernel.suite, place) {
        Ok(apt) => apt,
        Err(error) if have.is_some() && error.is::<Unavailable>() => {
            note(&format!("{error:#}; going on with the kernel that was fetched before"));
            return find(&root);
        }
        Err(error) => return Err(error),
    };
    let packages = apt.packages().map_err(unavailable)?;
    let wanted = packages.join(" ");
    if have.as_deref() != Some(&wanted) {
        apt.unpack(&packages, &root)?;
        fs::write(&marker, &wanted)?;
    }
    find(&root)
}

fn unavailable(error: anyhow::Error) -> anyhow::Error {
    Unavailable(format!("{error:#}")).into()
}

fn find(root: &Path) -> anyhow::Result<Files> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|path| root.join(path))
        .into_iter()
        .find(|path| path.is_dir())
        .context("the package has no modules")?;
    let release =
        fs::read_dir(&modules)?.next().context("the package has no modules")??.file_name();
    let release = release.to_string_lossy().into_owned();
    // Newer packages keep the kernel beside its modules.
    let candidates = [
        root.join("boot").join(format!("vmlinuz-{release}")),
        modules.join(&release).join("vmlinuz"),
    ];
    let image = candidates.into_iter().find(|path| path.is_file());
    let above = modules.parent().and_then(Path::parent).context("modules have a root")?;
    Ok(Files {
        image: image.context("the package has no kernel")?,
        root: above.to_owned(),
        release,
    })
}

/// The package tools, with everything of theirs below one directory.
struct Apt {
    options: Vec<String>,
    downloads: PathBuf,
}

impl Apt {
    fn new(suite: &str, place: &Path) -> anyhow::Result<Self> {
        let (lists, cache) = (place.join("lists"), place.join("cache"));
        let downloads = place.join("downloads");
        for directory in [&lists.join("partial"), &cache.join("archives/partial"), &downloads] {
            fs::create_dir_all(directory)?;
        }
        let sources = place.join("suite.sources");
        fs::write(&sources, source(&own_sources()?, &codename()?, suite)?)?;
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect();
        let apt = Self { options, downloads };
        // A list that can't be had is an error, not a warning.
        output(apt.run("apt-get").args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"]))
            .map_err(unavailable)?;
        Ok(apt)
    }

    fn run(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.args(&self.options).env("LC_ALL", "C");
        command
    }

    /// The kernel's packages, with their versions: it may be split in two.
    fn packages(&self) -> anyhow::Result<Vec<String>> {
        let image = self.depends(PACKAGE)?;
        let image = image.iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{PACKAGE} depends on no kernel"))?;
        let parts = self
            .depends(image)?
            .into_iter()
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"));
        let names: Vec<_> = std::iter::once(image.clone()).chain(parts).collect();
        names.iter().map(|name| Ok(format!("{name}={}", self.field(name, "Version")?))).collect()
    }

    fn depends(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let line = self.field(package, "Depends")?;
        let names = line.split([',', '|']).filter_map(|part| part.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    fn field(&self, package: &str, field: &str) -> anyhow::Result<String> {
        let text = output(self.run("apt-cache").args(["show", "--no-all-versions", package]))?;
        let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
        found.map(str::to_owned).with_context(|| format!("{package} has no {field}"))
    }

    fn unpack(&self, packages: &[String], root: &Path) -> anyhow::Result<()> {
        for stale in [root, &self.downloads] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
            fs::create_dir_all(stale)?;
        }
        let mut download = self.run("apt-get");
        output(download.current_dir(&self.downloads).args(["download", "-qq"]).args(packages))
            .map_err(unavailable)?;
        for entry in fs::read_dir(&self.downloads)? {
            output(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(root))?;
        }
        Ok(fs::remove_dir_all(&self.downloads)?)
    }
}

fn codename() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// Everything that says where this machine's packages come from.
fn own_sources() -> anyhow::Result<String> {
    let apt = Path::new("/etc/apt");
    let mut text = fs::read_to_string(apt.join("sources.list")).unwrap_or_default();
    let mut parts: Vec<_> = match fs::read_dir(apt.join("sources.list.d")) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?,
        Err(_) => Vec::new(),
    };
    parts.sort();
    for part in parts {
        text += "\n\n";
        text += &fs::read_to_string(&part).with_context(|| part.display().to_string())?;
    }
    Ok(text)
}

/// Where another suite comes from, if `sources` say where that of this machine does.
fn source(sources: &str, codename: &str, suite: &str) -> Result<String, Unavailable> {
    for stanza in sources.split("\n\n") {
        let field = |name: &str| {
            let found = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.map(str::trim)
        };
        let (Some(uris), Some(suites)) = (field("URIs"), field("Suites")) else { continue };
        if suites.split_whitespace().any(|name| name == codename) {
            let key = field("Signed-By").map(|key| format!("Signed-By: {key}\n"));
            return Ok(stanza_of(uris, suite, &key.unwrap_or_default()));
        }
    }
    for line in sources.lines() {
        let Some(rest) = line.strip_prefix("deb ") else { continue };
        let (options, rest) = match rest.trim().strip_prefix('[') {
            Some(rest) => rest.split_once(']').unwrap_or_default(),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(name)) = (words.next(), words.next())
            && name == codename
        {
            let key = options.split_whitespace().find_map(|word| word.strip_prefix("signed-by="));
            let key = key.map(|key| format!("Signed-By: {key}\n"));
            return Ok(stanza_of(uri, suite, &key.unwrap_or_default()));
        }
    }
    Err(Unavailable(format!(
        "this machine's package sources have no suite `{codename}`: other kernels come from Debian"
    )))
}

fn stanza_of(uris: &str, suite: &str, key: &str) -> String {
    format!("Types: deb\nURIs: {uris}\nSuites: {suite}\nComponents: main\n{key}")
}

#[cfg(test)]
mod tests {
    use super::{Unavailable, find, source};

    #[test]
    fn another_suite_comes_from_where_this_ones_does() {
        let stanzas = "Types: deb\n# a comment\nURIs: http://a.example/debian\nSuites: one one-updates\n\
                       Components: main\nSigned-By: /k.gpg\n\n\
                       Types: deb\nURIs: http://a.example/security\nSuites: one-security\n";
        let expected = "Types: deb\nURIs: http://a.example/debian\nSuites: two\nComponents: main\n\
                        Signed-By: /k.gpg\n";
        assert_eq!(source(stanzas, "one", "two").unwrap(), expected);
        let lines = "deb http://b.example other main\n\
                     deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian one main contrib\n";
        assert_eq!(source(lines, "one", "two").unwrap(), expected);
        let bare = "deb http://a.example/debian one main\n";
        assert_eq!(
            source(bare, "one", "two").unwrap(),
            expected.replace("Signed-By: /k.gpg\n", "")
        );
        let error = source(stanzas, "three", "two").unwrap_err().to_string();
        assert!(error.contains("`three`"), "{error}");
    }

    #[test]
    fn a_package_without_a_kernel_is_no_reason_to_pass_it_over() {
        let root = tempfile::tempdir().unwrap();
        let Err(error) = find(root.path()) else { panic!("there is none") };
        assert!(!error.is::<Unavailable>(), "{error}");
    }
}
