//! The uncompressed kernel inside a bzImage.
//!
//! # Why it exists
//! Under software emulation a kernel that unpacks itself takes seconds. QEMU also boots the ELF
//! file inside (over PVH), which shows its first line at once.
//!
//! # Theory of operation
//! The x86 boot protocol says where the payload lies: `setup_sects` at 0x1f1 counts the sectors
//! before the protected-mode code; `payload_offset` and `payload_length` at 0x248 and 0x24c count
//! from there. The payload begins with its compression's magic number and ends with four octets
//! that hold the unpacked size.

use std::io::Read;

use crate::error::{Attempt, LabError, Result};

const SECTOR: usize = 512;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Octets that one block of the legacy LZ4 format unpacks to, at most.
const LZ4_BLOCK: usize = 8 << 20;

/// Takes the ELF file out of a bzImage.
pub fn elf_inside(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)
        .ok_or_else(|| LabError::Unexpected("kernel image without a payload".to_owned()))?;
    let (packed, size) = payload
        .split_last_chunk::<4>()
        .ok_or_else(|| LabError::Unexpected("kernel payload too short".to_owned()))?;
    let size = u32::from_le_bytes(*size) as usize;
    let elf = unpack(packed, size)?;
    if elf.len() != size || !elf.starts_with(b"\x7fELF") {
        return Err(LabError::Unexpected(format!(
            "kernel payload unpacked to {} octets, not an ELF file of {size}",
            elf.len()
        )));
    }
    Ok(elf)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize);
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        n => usize::from(n),
    };
    let start = (sectors + 1) * SECTOR + word(0x248)?;
    image.get(start..start + word(0x24c)?)
}

fn unpack(packed: &[u8], size: usize) -> Result<Vec<u8>> {
    let mut elf = Vec::with_capacity(size);
    if let Some(blocks) = packed.strip_prefix(&LZ4_LEGACY) {
        lz4_blocks(blocks, &mut elf)?;
    } else if packed.starts_with(b"\xfd7zXZ\0") {
        lzma_rust2::XzReader::new(packed, false)
            .read_to_end(&mut elf)
            .attempt(|| "unpack the kernel (xz)".to_owned())?;
    } else if packed.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(packed)
            .read_to_end(&mut elf)
            .attempt(|| "unpack the kernel (gzip)".to_owned())?;
    } else {
        let magic = packed.get(..6).unwrap_or_default();
        return Err(LabError::Unexpected(format!("kernel packed in an unknown way: {magic:02x?}")));
    }
    Ok(elf)
}

fn lz4_blocks(mut blocks: &[u8], into: &mut Vec<u8>) -> Result<()> {
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let block = rest.get(..length).ok_or_else(|| {
            LabError::Unexpected(format!("LZ4 block of {length} octets cut short"))
        })?;
        let plain = lz4_flex::block::decompress(block, LZ4_BLOCK)
            .map_err(|e| LabError::Unexpected(format!("unpack the kernel (LZ4): {e}")))?;
        into.extend_from_slice(&plain);
        blocks = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with a payload right after one sector of set-up code.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[0x1f1] = 1;
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn a_gzipped_kernel_comes_out_whole() {
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(elf.as_slice(), flate2::Compression::fast())
            .read_to_end(&mut packed)
            .unwrap();
        packed.extend_from_slice(&(elf.len() as u32).to_le_bytes());
        assert_eq!(elf_inside(&image(&packed)).unwrap(), elf);
    }

    #[test]
    fn a_payload_of_unknown_packing_is_refused_with_its_magic() {
        let error = elf_inside(&image(b"nothing known")).unwrap_err();
        assert!(error.to_string().contains("6e"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        assert!(elf_inside(&[0; 100]).is_err());
    }
}
