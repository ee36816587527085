//! Debian packages as a source of files: fetched and unpacked, never installed.
//!
//! # Theory of operation
//! `apt-get` resolves and verifies. Told that nothing at all is installed (an empty status file), it
//! downloads a package with all it depends on, C library included, so what is taken from the
//! unpacked tree does not depend on what this machine happens to have installed.
//! When apt does not know a package, or its server no longer has that version, the package lists
//! are fetched anew, once, and the same is tried again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{output, words};
use crate::error::{Attempt, LabError, Result};

/// Runs `attempt`; if it fails, fetches the package lists anew and runs it once more.
fn with_fresh_lists<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    attempt().or_else(|first| {
        output(words("apt-get update -q").env("DEBIAN_FRONTEND", "noninteractive")).map_err(
            |update| LabError::Unexpected(format!("{first}; and fetching new lists: {update}")),
        )?;
        attempt()
    })
}

/// The real package behind one that only depends on it (`linux-image-cloud-amd64`).
pub fn behind(name: &str, prefix: &str) -> Result<String> {
    with_fresh_lists(|| {
        let text = output(Command::new("apt-cache").args(["depends", name]))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|package| package.starts_with(prefix))
            .map(str::to_owned)
            .ok_or_else(|| {
                LabError::Unexpected(format!("apt knows no package {prefix}* behind {name}"))
            })
    })
}

/// Downloads one package, without what it depends on, into `dir`; gives the file.
pub fn download(name: &str, dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).attempt(|| format!("create {}", dir.display()))?;
    with_fresh_lists(|| {
        output(
            Command::new("apt-get")
                .args(["download", "-q", "-o", "APT::Sandbox::User=root", name])
                .current_dir(dir),
        )
    })?;
    debs(dir)?.into_iter().find(|deb| file_name(deb).starts_with(&format!("{name}_"))).ok_or_else(
        || {
            LabError::Unexpected(format!(
                "apt-get download {name} left no file in {}",
                dir.display()
            ))
        },
    )
}

/// Downloads packages with all that they depend on into `dir`; gives all files.
pub fn download_with_dependencies(names: &[&str], dir: &Path) -> Result<Vec<PathBuf>> {
    let partial = dir.join("partial");
    fs::create_dir_all(&partial).attempt(|| format!("create {}", partial.display()))?;
    let status = dir.join("nothing-installed");
    fs::write(&status, "").attempt(|| format!("write {}", status.display()))?;
    with_fresh_lists(|| {
        let mut command = Command::new("apt-get");
        command.args(["install", "-qy", "--download-only", "--no-install-recommends"]);
        for (key, path) in [("Dir::State::status", &status), ("Dir::Cache::archives", &dir.into())]
        {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        command.args(["-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=root"]);
        output(command.args(names))
    })?;
    debs(dir)
}

/// Unpacks a package's files below `root`.
pub fn unpack(deb: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root).attempt(|| format!("create {}", root.display()))?;
    output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root)).map(drop)
}

/// The name of the package in a file of apt's.
pub fn package_of(deb: &Path) -> String {
    file_name(deb).split('_').next().unwrap_or_default().to_owned()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).attempt(|| format!("read {}", dir.display()))?;
    let mut found: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "deb"))
        .collect();
    found.sort();
    Ok(found)
}
