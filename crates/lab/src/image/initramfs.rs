//! A guest's first file system, written as the cpio archive that the kernel unpacks at boot.
//!
//! Entries appear in the order in which they were added, owned by root, without times: the same
//! input gives the same octets.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::command::output;
use crate::error::{Attempt, LabError, Result};

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<String>,
}

impl Archive {
    fn entry(&mut self, path: &str, kind: ModeFileType, mode: u32, content: &[u8]) -> Result<()> {
        let path = path.trim_start_matches('/');
        if !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        let size = u32::try_from(content.len())
            .map_err(|_| LabError::Unexpected(format!("{path} is too large for an initramfs")))?;
        let number = self.paths.len() as u32;
        let builder = Builder::new(path).ino(number).mode(mode).set_mode_file_type(kind);
        let mut writer = builder.write(&mut self.bytes, size);
        writer
            .write_all(content)
            .and_then(|()| writer.finish().map(drop))
            .attempt(|| format!("write {path} to an initramfs"))
    }

    /// Adds a directory, with those above it. A path that is there already stays as it is: true for
    /// all kinds of entries.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, ModeFileType::Directory, 0o755, &[])
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entry(&path[..at], ModeFileType::Directory, 0o755, &[])?;
        }
        Ok(())
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, ModeFileType::Regular, mode, content)
    }

    /// Adds a copy of a file of this machine, executable if that is.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let read = || format!("read {}", from.display());
        let mode = fs::metadata(from).attempt(read)?.permissions().mode();
        self.file(path, mode & 0o755, &fs::read(from).attempt(read)?)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, ModeFileType::Symlink, 0o777, target.as_bytes())
    }

    /// Adds a program from an unpacked tree with the libraries it needs, which the tree's own
    /// loader finds.
    pub fn program(&mut self, root: &Path, name: &str) -> Result<()> {
        let found = ["bin", "sbin", "usr/bin", "usr/sbin"]
            .map(|dir| root.join(dir).join(name))
            .into_iter()
            .find(|path| path.exists());
        let from = found.ok_or_else(|| {
            LabError::Unexpected(format!("there is no program {name} in {}", root.display()))
        })?;
        self.copy(&format!("bin/{name}"), &from)?;
        for (soname, file) in libraries(root, &from)? {
            self.copy(&format!("lib/x86_64-linux-gnu/{soname}"), &file)?;
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(self) -> Result<Vec<u8>> {
        trailer(self.bytes).attempt(|| "end an initramfs".to_owned())
    }
}

/// Where the dynamic loader lies in Debian's trees and in the guest.
pub const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

fn library_directories(root: &Path) -> [PathBuf; 2] {
    ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|dir| root.join(dir))
}

/// The libraries that a program of the tree `root` needs: name and file.
fn libraries(root: &Path, program: &Path) -> Result<Vec<(String, PathBuf)>> {
    let search = library_directories(root).map(|d| d.display().to_string()).join(":");
    let loader = root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    let text = output(
        Command::new(loader)
            .args(["--inhibit-cache", "--library-path", &search, "--list"])
            .arg(program),
    )?;
    let mut found = Vec::new();
    for line in text.lines() {
        // `libmnl.so.0 => /root/usr/lib/.../libmnl.so.0 (0x00007f...)`
        let Some((soname, rest)) = line.trim().split_once(" => ") else { continue };
        let file = rest.split(" (").next().unwrap_or_default();
        if !Path::new(file).starts_with(root) {
            return Err(LabError::Unexpected(format!(
                "{} needs {soname}, which is not in {}: found {file:?}",
                program.display(),
                root.display()
            )));
        }
        if !soname.contains("ld-linux") {
            found.push((soname.to_owned(), PathBuf::from(file)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_each_path_once_with_its_parents_first() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o644, b"first").unwrap();
        archive.file("/a/b/c", 0o644, b"second").unwrap();
        archive.link("a/l", "b/c").unwrap();
        let bytes = archive.finish().unwrap();
        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().to_owned();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
            seen.push((name, text));
            rest = reader.finish().unwrap();
        }
        let want = [("a", ""), ("a/b", ""), ("a/b/c", "first"), ("a/l", "b/c")];
        assert_eq!(seen, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
