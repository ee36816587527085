//! Small FAT file systems, made in memory: what firmware and cloud-init read.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Write as _};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};

/// A file system of `octets` with this label and these files, by paths with `/` between their parts.
/// The label is filled up with spaces, as FAT does. The same every time.
pub fn image(label: &[u8; 11], octets: usize, files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; octets]);
    format_volume(&mut disk, FormatVolumeOptions::new().volume_label(*label))?;
    {
        let system = FileSystem::new(&mut disk, FsOptions::new())?;
        let root = system.root_dir();
        let ends = |path: &str| path.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
        let directories: BTreeSet<&str> = files
            .iter()
            .flat_map(|(p, _)| ends(p).into_iter().filter_map(|at| p.get(..at)))
            .collect();
        for directory in directories {
            root.create_dir(directory)?;
        }
        for (path, octets) in files {
            let mut file = root.create_file(path)?;
            file.write_all(octets)?;
            file.flush()?;
        }
        drop(root);
        system.unmount()?;
    }
    Ok(disk.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn files_are_found_where_they_were_put() {
        let large = vec![7; 3 << 20];
        let files = [("a/b/first", &b"1"[..]), ("a/second with a long name", &large), ("c", b"")];
        let made = image(b"LABEL      ", 8 << 20, &files).unwrap();
        assert_eq!(made.len(), 8 << 20);
        let system = FileSystem::new(Cursor::new(made), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label_as_bytes(), b"LABEL");
        for (path, octets) in files {
            let mut found = Vec::new();
            system.root_dir().open_file(path).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == octets, "{path}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(image(b"LABEL      ", 1 << 20, &[("a", &vec![0; 2 << 20])]).is_err());
    }
}
