//! Training data.

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use edict_scenes::Scene;

use super::{Dataset, ProgramError};

/// The header of an NPY file, version 1.0, of bytes in C order.
fn npy_header(shape: [u64; 4]) -> Vec<u8> {
    let [count, height, width, channels] = shape;
    let dictionary = format!(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {height}, {width}, {channels}), }}"
    );
    // Magic, version and length take 10 bytes; the format asks for a multiple of 64 and a line feed last.
    let padded = (10 + dictionary.len() + 1).next_multiple_of(64) - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((padded as u16).to_le_bytes());
    header.extend(format!("{dictionary:<width$}\n", width = padded - 1).into_bytes());
    header
}

/// Writes images.npy and captions.txt.
pub(super) fn write(options: &Dataset) -> Result<(), ProgramError> {
    let Dataset { count, seed, size, captions, .. } = *options;
    let end = seed.checked_add(count).ok_or(ProgramError::Seeds { seed, count })?;
    // Before anything is written: a side that cannot be drawn leaves no empty files.
    Scene::from_seed(seed).render(size)?;
    fs::create_dir_all(&options.out).map_err(ProgramError::write(&options.out))?;
    let images_path = options.out.join("images.npy");
    let captions_path = options.out.join("captions.txt");
    let open =
        |path| Ok::<_, ProgramError>(BufWriter::new(File::create(path).map_err(ProgramError::write(path))?));
    let (mut images, mut lines) = (open(&images_path)?, open(&captions_path)?);
    let header = npy_header([count, size as u64, size as u64, 3]);
    images.write_all(&header).map_err(ProgramError::write(&images_path))?;
    for seed in seed..end {
        let scene = Scene::from_seed(seed);
        images.write_all(scene.render(size)?.bytes()).map_err(ProgramError::write(&images_path))?;
        writeln!(lines, "{}", scene.captions(seed, captions).join("\t"))
            .map_err(ProgramError::write(&captions_path))?;
    }
    images.flush().map_err(ProgramError::write(&images_path))?;
    lines.flush().map_err(ProgramError::write(&captions_path))
}

#[cfg(test)]
mod tests {
    use super::npy_header;

    #[test]
    fn the_header_is_aligned_and_ends_its_line() {
        for count in [1, 100, 60_000, u64::MAX] {
            let header = npy_header([count, 64, 64, 3]);
            assert_eq!(header.len() % 64, 0);
            assert_eq!(header.last(), Some(&b'\n'));
            assert_eq!(usize::from(header[8]) + 256 * usize::from(header[9]), header.len() - 10);
        }
    }
}
