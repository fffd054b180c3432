//! Training data.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::thread;

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

/// Bytes of pictures that a thread draws, roughly, before they are written.
const SHARE_BYTES: usize = 3 << 20;

/// The pixels of scenes, and their captions, a line each.
fn draw(seeds: Range<u64>, size: usize, captions: usize) -> Result<(Vec<u8>, String), ProgramError> {
    let (mut pixels, mut words) = (Vec::new(), String::new());
    for seed in seeds {
        let scene = Scene::from_seed(seed);
        pixels.extend(scene.render(size)?.bytes());
        words += &scene.captions(seed, captions).join("\t");
        words.push('\n');
    }
    Ok((pixels, words))
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
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let share = (SHARE_BYTES / (3 * size * size)).max(1) as u64;
    let mut next = seed;
    while next < end {
        let after = |shares: u64| next.saturating_add(shares * share).min(end);
        let parts = (0..threads).map(|i| after(i)..after(i + 1));
        let drawn: Vec<_> = thread::scope(|scope| {
            let drawing: Vec<_> = parts.map(|part| scope.spawn(move || draw(part, size, captions))).collect();
            drawing.into_iter().map(|part| part.join().expect("drawing does not panic")).collect()
        });
        for part in drawn {
            let (pixels, words) = part?;
            images.write_all(&pixels).map_err(ProgramError::write(&images_path))?;
            lines.write_all(words.as_bytes()).map_err(ProgramError::write(&captions_path))?;
        }
        next = after(threads);
    }
    images.flush().map_err(ProgramError::write(&images_path))?;
    lines.flush().map_err(ProgramError::write(&captions_path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_lie_in_the_order_of_their_seeds_whoever_drew_them() {
        // 64 pictures of 128x128 are a thread's share.
        let (count, seed, size) = (150, 7, 128);
        let desk = tempfile::tempdir().unwrap();
        let out = desk.path().to_owned();
        write(&Dataset { count, seed, size, captions: 2, out: out.clone() }).unwrap();
        let images = fs::read(out.join("images.npy")).unwrap();
        let captions = fs::read_to_string(out.join("captions.txt")).unwrap();
        let scenes: Vec<_> = (seed..seed + count).map(|seed| (seed, Scene::from_seed(seed))).collect();
        let mut wanted = npy_header([count, size as u64, size as u64, 3]);
        scenes.iter().for_each(|(_, scene)| wanted.extend(scene.render(size).unwrap().bytes()));
        assert!(images == wanted);
        let wanted: Vec<_> = scenes.iter().map(|(seed, scene)| scene.captions(*seed, 2).join("\t")).collect();
        assert_eq!(captions.lines().collect::<Vec<_>>(), wanted);
    }

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
