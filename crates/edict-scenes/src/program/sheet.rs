//! Contact sheets.

use edict_scenes::{Attribute, EditCase, Picture, Scene};
use image::{Rgb, RgbImage};

use super::{ProgramError, Show, say};

const GAP: usize = 4;
const LIMIT: usize = 16_384;

/// A grid of pictures; a cell may hold none.
struct Sheet {
    image: RgbImage,
    side: usize,
    zoom: usize,
}

impl Sheet {
    fn new(rows: usize, columns: usize, side: usize, zoom: usize) -> Result<Self, ProgramError> {
        let extent = |cells: usize| {
            let pixels = side.checked_mul(zoom)?.checked_add(GAP)?.checked_mul(cells)?.checked_add(GAP)?;
            (cells > 0 && pixels <= LIMIT).then_some(pixels as u32)
        };
        match (extent(columns), extent(rows), (1..=16).contains(&zoom)) {
            (Some(width), Some(height), true) => {
                Ok(Self { image: RgbImage::from_pixel(width, height, Rgb([255; 3])), side, zoom })
            }
            _ => Err(ProgramError::Sheet { limit: LIMIT }),
        }
    }

    fn put(&mut self, row: usize, column: usize, colour: impl Fn(usize) -> [u8; 3]) {
        let extent = self.side * self.zoom;
        for y in 0..extent {
            for x in 0..extent {
                let pixel = (y / self.zoom) * self.side + x / self.zoom;
                let (left, top) = (GAP + column * (extent + GAP), GAP + row * (extent + GAP));
                self.image.put_pixel((left + x) as u32, (top + y) as u32, Rgb(colour(pixel)));
            }
        }
    }

    fn put_picture(&mut self, row: usize, column: usize, picture: &Picture) {
        let bytes = picture.bytes();
        self.put(row, column, |pixel| [bytes[3 * pixel], bytes[3 * pixel + 1], bytes[3 * pixel + 2]]);
    }
}

/// Writes the sheet and prints the captions, row by row.
pub(super) fn write(options: &Show) -> Result<(), ProgramError> {
    let Show { seed, rows, columns, size, zoom, edits: of_edits, .. } = *options;
    let count = (rows as u64).saturating_mul(if of_edits { 1 } else { columns as u64 });
    seed.checked_add(count).ok_or(ProgramError::Seeds { seed, count })?;
    let sheet = if of_edits { edits(seed, rows, size, zoom)? } else { scenes(options)? };
    sheet
        .image
        .save(&options.out)
        .map_err(|source| ProgramError::Encode { path: options.out.clone(), source })
}

fn scenes(options: &Show) -> Result<Sheet, ProgramError> {
    let Show { seed, rows, columns, size, zoom, .. } = *options;
    let mut sheet = Sheet::new(rows, columns, size, zoom)?;
    for row in 0..rows {
        for column in 0..columns {
            let seed = seed + (row * columns + column) as u64;
            let scene = Scene::from_seed(seed);
            sheet.put_picture(row, column, &scene.render(size)?);
            say(&format!("{row},{column}: {}", scene.captions(seed, 1).join("")))?;
        }
    }
    Ok(sheet)
}

fn edits(seed: u64, rows: usize, size: usize, zoom: usize) -> Result<Sheet, ProgramError> {
    let mut sheet = Sheet::new(2 * rows, 1 + Attribute::ALL.len(), size, zoom)?;
    for row in 0..rows {
        for (column, attribute) in Attribute::ALL.into_iter().enumerate() {
            let case = EditCase::from_seed(seed + row as u64, attribute);
            let (before, after) = (case.source.render(size)?, case.target.render(size)?);
            let region = before.changed(&after)?;
            sheet.put_picture(2 * row, 0, &before);
            sheet.put_picture(2 * row, column + 1, &after);
            sheet.put(2 * row + 1, column + 1, |pixel| [if region[pixel] { 40 } else { 225 }; 3]);
            say(&format!("{row}: {} -> {}", case.source_caption, case.target_caption))?;
        }
    }
    Ok(sheet)
}
