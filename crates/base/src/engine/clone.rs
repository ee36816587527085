//! Clones: a VM's own disk over an image that nobody writes to.
//!
//! # Theory of operation
//! ```text
//! IMAGE (raw or qcow2, only read) <── DATA/vm/NAME/IMAGE.qcow2   what the VM wrote
//!        ^                                   IMAGE.json          which image: size and time
//!        '------ must be the same ------------'
//! ```
//! A clone is made when its VM starts and has none, and used again from then on: a qcow2 image that
//! holds what the VM wrote, and says of everything else that it is in the image. It is written by
//! the base itself ([`qcow2`]): an empty one is a page of numbers, for which neither a program nor
//! a library is needed. The vessel gets both as descriptors, the image's for reading only, with
//! both formats said: nothing is looked for by name, and nothing is guessed from what a guest could
//! have written.
//!
//! # Invariants
//! - The image is never written to: its descriptor does not allow it.
//! - A clone is never used over anything but what it was made over: the image's size and time of
//!   change are noted before the clone is there, and compared each time.
//! - One VM at a time has a clone: its file is locked as long as a vessel has it.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::disk::{Access, OpenDisk};
use super::qcow2::{self, Header};
use crate::config::{CloneSize, Disk, DiskFormat};

/// The layout of the note about the image.
const VERSION: u32 = 1;
/// Characters of a clone's name without its ending.
const LONGEST_NAME: usize = 64;

/// What is noted about an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// Where it was, for people: it may be moved.
    image: PathBuf,
    /// Octets of the file or device.
    octets: u64,
    /// Nanoseconds from 1970 to its last change; of a device nobody knows it.
    modified: Option<u64>,
}

impl Note {
    fn of(path: &Path, file: &mut File) -> io::Result<Self> {
        let found = file.metadata()?;
        let since = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let modified = (!found.file_type().is_block_device()).then_some(modified);
        let octets = file.seek(SeekFrom::End(0))?;
        Ok(Self { version: VERSION, image: path.to_owned(), octets, modified })
    }

    fn is_of_same(&self, other: &Self) -> bool {
        self.octets == other.octets && self.modified == other.modified
    }
}

/// Opens a VM's clone of `disk` in its own directory; makes it if it is not there, and larger if
/// `size` says so.
pub fn open(disk: &Disk, size: CloneSize, directory: &Path) -> io::Result<OpenDisk> {
    let about_image = |e: io::Error| named(&disk.path, &e);
    let image = OpenDisk::open(&Disk { readonly: true, clone: None, ..disk.clone() })?;
    let Access::Descriptor(fd) = &image.access else {
        let text = "it has a backing file itself: make one image of both by `qemu-img convert`";
        return Err(about_image(io::Error::other(text)));
    };
    let mut file = File::from(fd.try_clone()?);
    let note = Note::of(&disk.path, &mut file).map_err(about_image)?;
    let inside = match disk.format {
        DiskFormat::Raw => note.octets.next_multiple_of(512),
        DiskFormat::Qcow2 => Header::read(&file).map_err(about_image)?.size,
    };
    let wanted = match size {
        CloneSize::AsImage => inside,
        CloneSize::Octets(size) if size < inside => {
            let text =
                format!("a clone of {} is too small: the image has {}", mib(size), mib(inside));
            return Err(about_image(io::Error::other(text)));
        }
        CloneSize::Octets(size) => size,
    };
    let path = directory.join(format!("{}.qcow2", name_of(&disk.path)));
    let made = make(&path, disk, &note, wanted).map_err(|e| named(&path, &e))?;
    let clone = match made {
        Some(clone) => clone,
        None => again(&path, &note, size).map_err(|e| named(&path, &e))?,
    };
    let access = Access::Descriptor(OwnedFd::from(clone));
    let over = Some(Box::new(image));
    Ok(OpenDisk { access, format: DiskFormat::Qcow2, device: false, readonly: false, over })
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("disk {}: {error}", path.display()))
}

fn mib(octets: u64) -> String {
    format!("{}M", octets.div_ceil(1 << 20))
}

/// The image's name without its ending, harmless in a path.
fn name_of(image: &Path) -> String {
    let stem = image.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    stem.chars().map(|c| if harmless(c) { c } else { '_' }).take(LONGEST_NAME).collect()
}

fn note_beside(clone: &Path) -> PathBuf {
    clone.with_extension("json")
}

/// Makes the clone, whole or not at all. `None`: it is there.
fn make(path: &Path, disk: &Disk, note: &Note, size: u64) -> io::Result<Option<File>> {
    if path.try_exists()? {
        return Ok(None);
    }
    let mut text = serde_json::to_vec_pretty(note)?;
    text.push(b'\n');
    fs::write(note_beside(path), text)?;
    let new = path.with_extension("new");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    lock(&file)?;
    qcow2::write_over(&file, &disk.path, disk.format, size)?;
    fs::rename(&new, path)?;
    Ok(Some(file))
}

/// Opens a clone that was made before.
fn again(path: &Path, note: &Note, size: CloneSize) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(path)?;
    lock(&file)?;
    let was: Note = serde_json::from_slice(&fs::read(note_beside(path))?)
        .map_err(|e| io::Error::other(format!("nobody knows which image it is a clone of: {e}")))?;
    if !was.is_of_same(note) {
        return Err(io::Error::other(format!(
            "it is a clone of {} as that was before it changed, and nothing without it: put the \
             image back as it was (size and time of change), or remove this disk with its .json, \
             and the VM begins anew",
            was.image.display()
        )));
    }
    let has = Header::read(&file)?.size;
    match size {
        CloneSize::Octets(size) if size > has => qcow2::grow(&file, size)?,
        CloneSize::Octets(size) if size < has => {
            let text = format!("it has {} already, and cannot be made smaller", mib(has));
            return Err(io::Error::other(text));
        }
        _ => {}
    }
    Ok(file)
}

/// Held as long as any process has this opening of the file: this one, and then the vessel.
fn lock(file: &File) -> io::Result<()> {
    flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => io::Error::other(
            "another VM of that name has it: give one of the instances a `data_dir` of its own",
        ),
        e => e.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::time::SystemTime;

    use super::*;

    struct Scene(tempfile::TempDir);

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("base.img"), vec![7; 3 << 20]).unwrap();
            fs::create_dir(dir.path().join("own")).unwrap();
            Self(dir)
        }

        fn image(&self) -> PathBuf {
            self.0.path().join("base.img")
        }

        fn own(&self, name: &str) -> PathBuf {
            self.0.path().join("own").join(name)
        }

        fn open(&self, size: CloneSize) -> io::Result<OpenDisk> {
            let (path, clone) = (self.image(), Some(size));
            let disk = Disk { path, format: DiskFormat::Raw, readonly: false, clone };
            open(&disk, size, &self.0.path().join("own"))
        }

        fn size(&self) -> u64 {
            Header::read(&File::open(self.own("base.qcow2")).unwrap()).unwrap().size
        }
    }

    fn file(disk: &OpenDisk) -> File {
        let Access::Descriptor(fd) = &disk.access else { panic!("{disk:?}") };
        File::from(fd.try_clone().unwrap())
    }

    #[test]
    fn a_clone_is_made_once_and_its_image_cannot_be_written_through_it() {
        let scene = Scene::new();
        let disk = scene.open(CloneSize::AsImage).unwrap();
        assert_eq!((disk.format, disk.readonly, scene.size()), (DiskFormat::Qcow2, false, 3 << 20));
        let image = disk.over.as_ref().unwrap();
        assert_eq!((image.format, image.readonly), (DiskFormat::Raw, true));
        assert!(file(image).write_at(b"x", 0).is_err());
        file(&disk).write_all_at(b"the VM's", 1 << 20).unwrap();
        drop(disk);
        let again = scene.open(CloneSize::AsImage).unwrap();
        let mut kept = [0; 8];
        file(&again).read_exact_at(&mut kept, 1 << 20).unwrap();
        assert_eq!(&kept, b"the VM's");
        assert!(!scene.own("base.new").exists());
    }

    #[test]
    fn a_clone_grows_and_never_shrinks() {
        let scene = Scene::new();
        let open = |size: u64| scene.open(CloneSize::Octets(size << 20)).map(drop);
        let error = open(2).unwrap_err().to_string();
        assert!(error.contains("too small: the image has 3M"), "{error}");
        assert!(!scene.own("base.qcow2").exists());
        open(8).unwrap();
        open(20).unwrap();
        scene.open(CloneSize::AsImage).unwrap();
        assert_eq!(scene.size(), 20 << 20);
        let error = open(19).unwrap_err().to_string();
        assert!(error.contains("it has 20M already"), "{error}");
    }

    #[test]
    fn a_clone_whose_image_changed_is_refused_until_the_image_is_as_it_was() {
        let scene = Scene::new();
        drop(scene.open(CloneSize::AsImage).unwrap());
        let image = File::options().write(true).open(scene.image()).unwrap();
        let was = image.metadata().unwrap().modified().unwrap();
        image.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let error = scene.open(CloneSize::AsImage).unwrap_err().to_string();
        assert!(error.contains("as that was before it changed"), "{error}");
        image.set_modified(was).unwrap();
        scene.open(CloneSize::AsImage).unwrap();
        image.set_len(4 << 20).unwrap();
        image.set_modified(was).unwrap();
        assert!(scene.open(CloneSize::AsImage).is_err());
        for gone in ["base.qcow2", "base.json"] {
            fs::remove_file(scene.own(gone)).unwrap();
        }
        scene.open(CloneSize::AsImage).unwrap();
        assert_eq!(scene.size(), 4 << 20);
    }

    #[test]
    fn a_clone_has_one_user_at_a_time() {
        let scene = Scene::new();
        let first = scene.open(CloneSize::AsImage).unwrap();
        let error = scene.open(CloneSize::AsImage).unwrap_err().to_string();
        assert!(error.contains("another VM of that name has it"), "{error}");
        drop(first);
        scene.open(CloneSize::AsImage).unwrap();
    }

    #[test]
    fn an_image_over_another_is_refused_and_says_what_to_do() {
        let scene = Scene::new();
        let image = File::create(scene.image()).unwrap();
        qcow2::write_over(&image, Path::new("/else"), DiskFormat::Raw, 1 << 20).unwrap();
        let size = CloneSize::AsImage;
        let (path, clone) = (scene.image(), Some(size));
        let disk = Disk { path, format: DiskFormat::Qcow2, readonly: false, clone };
        let error = open(&disk, size, &scene.own("")).unwrap_err().to_string();
        assert!(error.contains("qemu-img convert"), "{error}");
    }

    #[test]
    fn names_of_clones_are_harmless() {
        for (image, name) in [("/a/debian-12.qcow2", "debian-12"), ("/a/über mir.raw", "_ber_mir")]
        {
            assert_eq!(name_of(Path::new(image)), name);
        }
    }
}
