//! The little of QEMU's qcow2 format that the base needs: what an image's header says, an empty
//! image over another one, and making one larger.
//!
//! # Theory of operation
//! All numbers are big-endian. An image that was never written to is a header and three tables:
//! ```text
//! cluster 0      header, its extension "format of the backing file", the backing file's name
//! cluster 1      refcount table: one entry, cluster 2
//! cluster 2      refcount block: 1 for each of these clusters, 0 for all that follow
//! cluster 3..7   level-1 table: all zeroes, so everything is read from the backing file
//! ```
//! The level-1 table has room for the largest disk that a configuration can have, so growing is one
//! number in the header. It costs nothing: zeroes are not stored.
//!
//! # Limits
//! Written once, while nobody has the image open; everything else is QEMU's.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::config::DiskFormat;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Octets of a header of version 3 without extensions.
const HEADER: u32 = 104;
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of the level-1 table, each for 512 MiB: enough for 16 TiB.
const L1_ENTRIES: u32 = 32_768;
/// Clusters of that table, 8 octets an entry.
const L1_CLUSTERS: u64 = 4;
const REFCOUNT_TABLE_AT: u64 = CLUSTER;
const REFCOUNT_BLOCK_AT: u64 = 2 * CLUSTER;
const L1_AT: u64 = 3 * CLUSTER;
/// Clusters of an image that was never written to.
const CLUSTERS: u64 = 3 + L1_CLUSTERS;
/// Refcounts of 2 to the power of this bits.
const REFCOUNT_ORDER: u32 = 4;
/// The header's extension for the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Octets of the longest name of a backing file.
const LONGEST_NAME: usize = 1023;
/// The incompatible features that an image may have: dirty, corrupt, another compression, parts of
/// clusters. With the one between them QEMU reads and writes a file that the image names.
const HARMLESS: u64 = 1 | 2 | 8 | 16;
/// Where the header has the disk's size.
const SIZE_AT: u64 = 24;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Octets of the disk.
    pub size: u64,
    /// Whether it names a backing file.
    pub backed: bool,
    /// Octets of the largest disk that its level-1 table has entries for.
    most: u64,
}

impl Header {
    /// Reads it from the front of an image.
    pub fn read(file: &File) -> io::Result<Self> {
        let mut front = [0; 80];
        file.read_exact_at(&mut front, 0)?;
        let word = |at: usize| -> u32 {
            let octets = front.get(at..).and_then(|rest| rest.first_chunk::<4>());
            octets.map_or(0, |o| u32::from_be_bytes(*o))
        };
        let long = |at: usize| (u64::from(word(at)) << 32) | u64::from(word(at.saturating_add(4)));
        if front.first_chunk::<4>() != Some(&MAGIC) {
            return Err(io::Error::other("not a qcow2 image"));
        }
        if word(4) >= 3 && long(72) & !HARMLESS != 0 {
            return Err(io::Error::other(
                "its data is in another file, or it is of a kind that is not known here: make one \
                 image of it by `qemu-img convert`",
            ));
        }
        // A level-2 table fills a cluster with entries of 8 octets, each for a cluster.
        let bits = word(20).saturating_mul(2).saturating_sub(3);
        let most = 1u64.checked_shl(bits).unwrap_or(0).saturating_mul(word(36).into());
        Ok(Self { size: long(24), backed: long(8) != 0, most })
    }
}

/// Makes an empty file an image of `size` octets (a multiple of 512) over `image`. Neither file is
/// looked for again by its name: that is for people and their tools.
pub fn write_over(file: &File, image: &Path, format: DiskFormat, size: u64) -> io::Result<()> {
    if size > u64::from(L1_ENTRIES).saturating_mul(CLUSTER).saturating_mul(CLUSTER / 8) {
        return Err(io::Error::other("its image is larger than 16 TiB"));
    }
    let header = header_over(image.as_os_str(), format, size)?;
    file.set_len(CLUSTERS.saturating_mul(CLUSTER))?;
    file.write_all_at(&REFCOUNT_BLOCK_AT.to_be_bytes(), REFCOUNT_TABLE_AT)?;
    for (_, at) in (0..CLUSTERS).zip((REFCOUNT_BLOCK_AT..).step_by(2)) {
        file.write_all_at(&1u16.to_be_bytes(), at)?;
    }
    file.write_all_at(&header, 0)?;
    file.sync_all()
}

fn header_over(name: &OsStr, format: DiskFormat, size: u64) -> io::Result<Vec<u8>> {
    let name = name.as_bytes();
    let (Ok(name_len), true) = (u32::try_from(name.len()), name.len() <= LONGEST_NAME) else {
        let text = format!("its image's path has more than {LONGEST_NAME} octets");
        return Err(io::Error::other(text));
    };
    let mut extensions = Vec::new();
    let word = format.as_str().as_bytes();
    extensions.extend(BACKING_FORMAT.to_be_bytes());
    extensions.extend(u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
    extensions.extend(word);
    extensions.resize(extensions.len().next_multiple_of(8), 0);
    // The last one has neither kind nor length.
    extensions.extend([0; 8]);
    let name_at = u64::from(HEADER).saturating_add(extensions.len() as u64);

    let mut header = MAGIC.to_vec();
    header.extend(3u32.to_be_bytes());
    header.extend(name_at.to_be_bytes());
    header.extend(name_len.to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    // No encryption.
    header.extend([0; 4]);
    header.extend(L1_ENTRIES.to_be_bytes());
    header.extend(L1_AT.to_be_bytes());
    header.extend(REFCOUNT_TABLE_AT.to_be_bytes());
    header.extend(1u32.to_be_bytes());
    // No snapshots: how many, and where; no features of the three kinds.
    header.extend([0; 12 + 24]);
    header.extend(REFCOUNT_ORDER.to_be_bytes());
    header.extend(HEADER.to_be_bytes());
    header.extend(extensions);
    header.extend(name);
    Ok(header)
}

/// Makes an image that nobody has open larger.
pub fn grow(file: &File, size: u64) -> io::Result<()> {
    let header = Header::read(file)?;
    if size > header.most {
        let text = "it was not made by ipvisor, and has no room for that: `qemu-img resize` it";
        return Err(io::Error::other(text));
    }
    file.write_all_at(&size.to_be_bytes(), SIZE_AT)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_over_another_says_what_it_was_told_and_grows_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.qcow2");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        write_over(&file, Path::new("/images/b.raw"), DiskFormat::Raw, 3 << 30).unwrap();
        let header = Header::read(&file).unwrap();
        assert_eq!(header, Header { size: 3 << 30, backed: true, most: 16 << 40 });
        let octets = std::fs::read(&path).unwrap();
        assert_eq!(octets.len() as u64, CLUSTERS * CLUSTER);
        // The name stands where the header says, and its format before it.
        assert_eq!(octets[8..20], [0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 13]);
        assert_eq!(&octets[128..141], b"/images/b.raw");
        assert_eq!(&octets[104..115], b"\xe2\x79\x2a\xca\0\0\0\x03raw");
        assert_eq!(
            octets[REFCOUNT_BLOCK_AT as usize..][..16],
            [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0]
        );

        grow(&file, 16 << 40).unwrap();
        assert_eq!(Header::read(&file).unwrap().size, 16 << 40);
        assert!(grow(&file, (16 << 40) + 512).is_err());
        assert_eq!(Header::read(&file).unwrap().size, 16 << 40);
    }

    #[test]
    fn qemu_finds_nothing_wrong_with_what_was_made_and_grown() {
        let dir = tempfile::tempdir().unwrap();
        let (image, path) = (dir.path().join("b.raw"), dir.path().join("c.qcow2"));
        std::fs::write(&image, vec![7; 3 << 20]).unwrap();
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        write_over(&file, &image, DiskFormat::Raw, 3 << 20).unwrap();
        grow(&file, 20 << 30).unwrap();
        let qemu = |program: &str, words: &[&str]| {
            let done = std::process::Command::new(program).args(words).arg(&path).output().unwrap();
            assert!(done.status.success(), "{program} {words:?}: {done:?}");
            String::from_utf8(done.stdout).unwrap()
        };
        // Its own, the image's, and what the image is too short for.
        qemu("qemu-io", &["-c", "write -P 9 1M 64k", "-c", "write -P 8 19G 64k"]);
        for read in ["read -P 9 1M 64k", "read -P 7 2M 1M", "read -P 0 3M 1G", "read -P 8 19G 64k"]
        {
            qemu("qemu-io", &["-c", read]);
        }
        assert!(qemu("qemu-img", &["check"]).contains("No errors were found"));
        let said: serde_json::Value =
            serde_json::from_str(&qemu("qemu-img", &["info", "--output=json"])).unwrap();
        assert_eq!(said["virtual-size"], 20u64 << 30);
        assert_eq!(said["backing-filename-format"], "raw");
        assert_eq!(said["backing-filename"], image.to_str().unwrap());
    }

    #[test]
    fn what_is_no_image_and_a_name_without_end_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        std::fs::write(&path, [0; 512]).unwrap();
        let file = File::open(&path).unwrap();
        assert!(Header::read(&file).unwrap_err().to_string().contains("not a qcow2 image"));
        let long = "x".repeat(LONGEST_NAME + 1);
        assert!(header_over(OsStr::new(&long), DiskFormat::Raw, 512).is_err());
    }
}
