//! The disks of a VM, read.

use toml::de::DeValue;

use super::files::{Found, QCOW2_MAGIC};
use super::keys::Table;
use super::reader::{At, Reader, Value};
use super::report::Mistake;
use super::types::{CloneSize, Disk, DiskFormat};
use super::units::{self, Wrong};
use super::vm::{Surroundings, look, path};

/// Disks one VM can have: what fits on the root bus beside the other devices.
const MOST_DISKS: usize = 16;

/// What is said of a disk beside its path.
#[derive(Clone, Copy, Default)]
struct Said {
    format: Option<DiskFormat>,
    readonly: bool,
    clone: Option<CloneSize>,
}

/// The disks that could be read.
pub(super) fn read(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>) -> Vec<At<Disk>> {
    let Some(list) = reader.list("disk") else { return Vec::new() };
    if list.value.len() > MOST_DISKS {
        let message = format!("{} has {} disks", reader.whose, list.value.len());
        let help = format!("at most {MOST_DISKS} are possible");
        reader.out.push(Mistake::at(&list.at, message).help(help));
        return Vec::new();
    }
    let mut disks: Vec<At<Disk>> = Vec::new();
    for value in list.value {
        let Some(found) = disk(reader, value, around) else { continue };
        if let Some(first) = disks.iter().find(|d| d.value.path == found.value.path) {
            reader.out.push(
                Mistake::at(&found.at, "the same disk a second time")
                    .other(&first.at, "the first time")
                    .help("name each disk once"),
            );
        }
        disks.push(found);
    }
    disks
}

fn disk(
    reader: &mut Reader<'_, '_>,
    value: Value<'_>,
    around: &Surroundings<'_>,
) -> Option<At<Disk>> {
    let at = value.span();
    match value.get_ref() {
        DeValue::String(text) => {
            let text = At::new(text.as_ref(), &at);
            text.then(reader.out, |t: &&str| check(t, Said::default(), around))
        }
        DeValue::Table(table) => {
            let whose = format!("the disk of {}", reader.whose);
            let mut inner = Reader::new(Table::Disk, whose, &at, table, reader.out);
            let (path, said) = said(&mut inner);
            let disk = path.and_then(|p| p.then(inner.out, |t: &&str| check(t, said, around)));
            inner.finish();
            disk
        }
        _ => {
            reader.wrong_kind("disk", value);
            None
        }
    }
}

/// What a disk's own table says.
fn said<'t>(inner: &mut Reader<'t, '_>) -> (Option<At<&'t str>>, Said) {
    let (path_at, image_at) = (inner.place("path"), inner.place("image"));
    match (&path_at, &image_at) {
        (None, None) => inner.missing("path"),
        (Some(_), Some(at)) => {
            let help = "`path`: the disk itself; `image`: what the VM has a clone of";
            inner.out.push(Mistake::at(at, "`image` beside `path`").help(help));
        }
        _ => {}
    }
    let path = inner.text("path");
    let image = inner.text("image");
    let format = inner.parsed("format", |t| {
        [DiskFormat::Raw, DiskFormat::Qcow2]
            .into_iter()
            .find(|f| f.as_str() == t)
            .ok_or(Wrong::new(format!("there is no format `{t}`")).help("\"raw\" or \"qcow2\""))
    });
    let readonly_at = inner.place("readonly");
    let readonly = inner.boolean("readonly").unwrap_or(false);
    let size_at = inner.place("size");
    let size = inner.measured("size", units::disk_size);
    if let (Some(at), true, Some(_)) = (readonly_at, readonly, &image_at) {
        let help = "leave `readonly` out, or write `path` instead of `image`";
        inner.out.push(Mistake::at(&at, "a clone is there to be written to").help(help));
    }
    if let (Some(at), None) = (size_at, &image_at) {
        let help = "a disk has the size of its file; `size` goes with `image`";
        inner.out.push(Mistake::at(&at, "`size` without `image`").help(help));
    }
    let clone =
        image_at.map(|_| size.map_or(CloneSize::AsImage, |size| CloneSize::Octets(size.value)));
    let format = format.map(|f| f.value);
    (image.or(path), Said { format, readonly, clone })
}

/// A disk whose file is there and is what it is said to be.
///
/// The format is never taken from the contents: a guest that can write a raw disk could write a
/// qcow2 header into it that names any file of the host as backing file.
fn check(text: &str, said: Said, around: &Surroundings<'_>) -> Result<Disk, Wrong> {
    let Said { format, readonly, clone } = said;
    let key = if clone.is_some() { "image" } else { "path" };
    let path = path(text, around)?;
    let head = match look(&path, around)? {
        Found::File(head) | Found::BlockDevice(head) => Some(head),
        Found::Unseen => None,
        Found::Directory | Found::Other => {
            let wrong = format!("`{}` is neither a file nor a block device", path.display());
            return Err(Wrong::new(wrong).help("as in \"images/web.qcow2\" or \"/dev/vg0/web\""));
        }
    };
    let named = match path.extension() {
        Some(e) if e.eq_ignore_ascii_case("qcow2") => Some(DiskFormat::Qcow2),
        Some(e) if e.eq_ignore_ascii_case("raw") => Some(DiskFormat::Raw),
        _ => None,
    };
    let is_qcow2 = head.map(|head| head == QCOW2_MAGIC);
    match format.or(named) {
        Some(DiskFormat::Qcow2) if is_qcow2 == Some(false) => {
            Err(Wrong::new(format!("`{}` is not a qcow2 image", path.display()))
                .help(format!("if it is a raw one: {{ {key} = \"{text}\", format = \"raw\" }}")))
        }
        None if is_qcow2 == Some(true) => Err(Wrong::new(format!(
            "`{}` is a qcow2 image, or a guest made it look like one",
            path.display()
        ))
        .help(format!("say which: {{ {key} = \"{text}\", format = \"qcow2\" }}, or \"raw\""))),
        format => Ok(Disk { path, format: format.unwrap_or(DiskFormat::Raw), readonly, clone }),
    }
}
