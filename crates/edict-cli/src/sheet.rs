//! Pictures side by side, with words under them.

use font8x8::UnicodeFonts;
use ndarray::{Array3, Axis, AxisDescription, Slice};

/// Pixels of a letter's side.
const LETTER: usize = 8;
/// Pixels between tiles.
const MARGIN: usize = 12;
/// Small pictures are enlarged by whole factors until they are at least this wide.
const WIDTH: usize = 192;

/// A picture `[3, height, width]` in [-1, 1] and what is said of it.
#[derive(Clone, Debug)]
pub(crate) struct Tile {
    pub(crate) picture: Array3<f64>,
    pub(crate) label: String,
}

impl Tile {
    pub(crate) fn new(picture: Array3<f64>, label: impl Into<String>) -> Self {
        Self { picture, label: label.into() }
    }

    /// How much one picture differs from another: black where it does not, by red and yellow to white for all of the range. `None`
    /// if their sizes differ.
    pub(crate) fn difference(a: &Array3<f64>, b: &Array3<f64>, label: impl Into<String>) -> Option<Self> {
        if a.dim() != b.dim() {
            return None;
        }
        let largest = (a - b).fold_axis(Axis(0), 0.0, |most: &f64, d| most.max(d.abs() / 2.0));
        let picture = Array3::from_shape_fn(a.dim(), |(channel, y, x)| {
            let share = (3.0 * largest[[y, x]] - channel as f64).clamp(0.0, 1.0);
            2.0 * share - 1.0
        });
        Some(Self::new(picture, label))
    }

    fn enlarged(&self, factor: usize) -> Array3<f64> {
        let (_, height, width) = self.picture.dim();
        Array3::from_shape_fn((3, height * factor, width * factor), |(c, y, x)| {
            self.picture[[c, y / factor, x / factor]]
        })
    }
}

/// Lays rows of tiles out on white, `[3, height, width]`. Cells are as large as the largest tile; a row may be shorter.
pub(crate) fn sheet(rows: &[Vec<Tile>]) -> Array3<f64> {
    let tiles = || rows.iter().flatten();
    let side = |of: fn(&Tile) -> usize| tiles().map(of).max().unwrap_or(1).max(1);
    let (height, width) = (side(|tile| tile.picture.dim().1), side(|tile| tile.picture.dim().2));
    let factor = WIDTH.div_ceil(width).max(1);
    let (height, width) = (height * factor, width * factor);
    let letters = width / LETTER;
    let lines = tiles().map(|tile| wrap(&tile.label, letters).len()).max().unwrap_or(0);
    let cell = (height + 4 + lines * (LETTER + 2) + MARGIN, width + MARGIN);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut sheet = Array3::from_elem((3, rows.len() * cell.0 + MARGIN, columns * cell.1 + MARGIN), 1.0);
    for (row, tiles) in rows.iter().enumerate() {
        for (column, tile) in tiles.iter().enumerate() {
            let (top, left) = (MARGIN + row * cell.0, MARGIN + column * cell.1);
            let picture = tile.enlarged(factor);
            let (_, h, w) = picture.dim();
            let place = |axis: AxisDescription| match axis.axis {
                Axis(0) => Slice::from(..),
                Axis(1) => Slice::from(top..top + h),
                _ => Slice::from(left..left + w),
            };
            sheet.slice_each_axis_mut(place).assign(&picture);
            for (line, text) in wrap(&tile.label, letters).iter().enumerate() {
                write(&mut sheet, text, (top + height + 4 + line * (LETTER + 2), left));
            }
        }
    }
    sheet
}

/// Breaks a text into lines of at most `letters` letters, between words where that is possible.
fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word: Vec<char> = word.chars().collect();
        for piece in word.chunks(letters.max(1)) {
            let fits = |line: &String| line.chars().count() + 1 + piece.len() <= letters;
            match lines.last_mut().filter(|line| fits(line)) {
                Some(line) => {
                    line.push(' ');
                    line.extend(piece);
                }
                None => lines.push(piece.iter().collect()),
            }
        }
    }
    lines
}

/// Writes a line in black; characters the font lacks become question marks.
fn write(sheet: &mut Array3<f64>, text: &str, (top, left): (usize, usize)) {
    for (i, letter) in text.chars().enumerate() {
        let glyph = font8x8::BASIC_FONTS
            .get(letter)
            .or_else(|| font8x8::LATIN_FONTS.get(letter))
            .or_else(|| font8x8::BASIC_FONTS.get('?'))
            .unwrap_or_default();
        for (y, row) in glyph.iter().enumerate() {
            for x in (0..LETTER).filter(|x| row >> x & 1 == 1) {
                for channel in 0..3 {
                    if let Some(pixel) = sheet.get_mut([channel, top + y, left + i * LETTER + x]) {
                        *pixel = -1.0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_long_words_anywhere() {
        assert_eq!(wrap("a red car at night", 8), ["a red", "car at", "night"]);
        assert_eq!(wrap("mushrooms  on", 5), ["mushr", "ooms", "on"]);
        assert!(wrap("", 5).is_empty());
    }

    #[test]
    fn tiles_stand_where_their_row_and_column_say() {
        let tile = |value| Tile::new(Array3::from_elem((3, 2, 96), value), "");
        let sheet = sheet(&[vec![tile(-0.5)], vec![tile(0.25), tile(0.5)]]);
        // Enlarged twice to 192 wide, 4 high; 4 for the (empty) words, 12 between.
        assert_eq!(sheet.dim(), (3, 2 * 20 + 12, 2 * 204 + 12));
        assert_eq!([sheet[[0, 12, 12]], sheet[[0, 32, 12]], sheet[[0, 32, 216]]], [-0.5, 0.25, 0.5]);
        assert_eq!([sheet[[0, 15, 203]], sheet[[0, 16, 12]], sheet[[0, 12, 216]]], [-0.5, 1.0, 1.0]);
    }

    #[test]
    fn differences_go_from_black_to_white() {
        let a = Array3::zeros((3, 1, 3));
        let mut b = a.clone();
        b[[1, 0, 1]] = 1.0;
        b[[2, 0, 2]] = -2.0;
        assert!(Tile::difference(&a, &Array3::zeros((3, 3, 1)), "").is_none());
        let tile = Tile::difference(&a, &b, "").unwrap();
        let pixel = |x: usize| [0, 1, 2].map(|c| tile.picture[[c, 0, x]]);
        assert_eq!([pixel(0), pixel(1), pixel(2)], [[-1.0; 3], [1.0, 0.0, -1.0], [1.0; 3]]);
    }
}
