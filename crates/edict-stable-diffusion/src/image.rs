//! Image files to tensors in [-1, 1], and back.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits};
use ndarray::{Array4, ArrayView3};

use crate::atomic_file::{OutputError, write_atomically};
use crate::resample::Axis;

/// The longest side of an image that is read or made, in pixels.
pub const MAX_SIDE: usize = 16384;
/// The most memory an image may take once decoded, and the longest file that is read, in bytes.
const MAX_BYTES: u64 = 512 << 20;

/// Width and height in pixels; written `WIDTHxHEIGHT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// A text is not an image size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an image size should be WIDTHxHEIGHT in pixels, such as 512x512, found {found:?}")]
pub struct ParseSizeError {
    found: String,
}

impl ImageSize {
    /// Checks that a model takes pictures of this size.
    ///
    /// # Errors
    /// [`ImageError::Size`] if a side is no multiple of `factor`, 0 or above [`MAX_SIDE`].
    pub fn check(self, factor: usize) -> Result<(), ImageError> {
        let factor = factor.max(1);
        let legal = |side: usize| side > 0 && side <= MAX_SIDE && side.is_multiple_of(factor);
        if legal(self.width) && legal(self.height) {
            Ok(())
        } else {
            Err(ImageError::Size { size: self, factor })
        }
    }
}

impl FromStr for ImageSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let number = |digits: &str| {
            digits.parse().ok().filter(|&n| n > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let size = text
            .split_once(['x', 'X'])
            .and_then(|(width, height)| Some(Self { width: number(width)?, height: number(height)? }));
        size.ok_or_else(|| ParseSizeError { found: text.to_owned() })
    }
}

/// Why an image cannot be read, prepared or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be opened or read.
    #[error("{path}: cannot be read")]
    Read {
        /// The image's path.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("{path}: is empty, wanted a PNG, JPEG or WebP image")]
    EmptyFile {
        /// The image's path.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{path}: should be a PNG, JPEG or WebP image, found {found}: convert it with another program")]
    Format {
        /// The image's path.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// The image is damaged or cut short.
    #[error("{path}: is a damaged or incomplete image")]
    Decode {
        /// The image's path.
        path: PathBuf,
        /// The decoder's reason.
        #[source]
        source: image::ImageError,
    },
    /// A JPEG ends before its end marker.
    #[error("{path}: the JPEG ends before its image does: fetch or save it again")]
    Truncated {
        /// The image's path.
        path: PathBuf,
    },
    /// The image or its file is larger than the limits.
    #[error(
        "{path}: is too large ({found}): at most {MAX_SIDE} pixels a side and {} MiB in memory, scale it down first",
        MAX_BYTES >> 20
    )]
    TooLarge {
        /// The image's path.
        path: PathBuf,
        /// What is too large.
        found: String,
    },
    /// The image is smaller than one latent pixel.
    #[error(
        "the image is {size} pixels, at least {factor}x{factor} are needed: ask for a size, and it is enlarged"
    )]
    TooSmall {
        /// The image's size.
        size: ImageSize,
        /// The model's factor from latent to image sides.
        factor: usize,
    },
    /// A size that was asked for does not fit the model.
    #[error("an image size of {size} should have sides from {factor} to {MAX_SIDE} that are multiples of {factor}: {}",
        suggestion(*.size, *.factor))]
    Size {
        /// The size asked for.
        size: ImageSize,
        /// The model's factor from latent to image sides.
        factor: usize,
    },
    /// An array to be written is not an image.
    #[error("an image to write should have shape [3, height, width], found {shape:?}")]
    Shape {
        /// The array's shape.
        shape: [usize; 3],
    },
    /// An array to be written holds values that are not numbers.
    #[error("{count} values of the image are not numbers: run the VAE with more precision (f32)")]
    NotANumber {
        /// How many.
        count: usize,
    },
    /// The image cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Names the legal sizes next to one that is not.
fn suggestion(size: ImageSize, factor: usize) -> String {
    let most = MAX_SIDE / factor * factor;
    let lower = |side: usize| (side / factor * factor).clamp(factor, most);
    let upper = |side: usize| side.div_ceil(factor).saturating_mul(factor).clamp(factor, most);
    let below = ImageSize { width: lower(size.width), height: lower(size.height) };
    let above = ImageSize { width: upper(size.width), height: upper(size.height) };
    if below == above { format!("take {below}") } else { format!("take {below} or {above}") }
}

/// An image as it was read: upright, RGB, without transparency.
///
/// * Orientation as the EXIF data says; ICC profiles and gamma are not applied.
/// * Transparent pixels are laid over white. Grey, palette and CMYK images become RGB. 16-bit images keep their precision.
/// * Of an animation the first frame.
#[derive(Clone)]
pub struct Picture {
    size: ImageSize,
    /// `[height, width, 3]`, 0 to 65535: an 8-bit value is 257 times itself.
    samples: Vec<u16>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Picture").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Picture {
    /// Reads a PNG, JPEG or WebP file; what it is is seen from its content, not its name.
    ///
    /// # Errors
    /// [`ImageError`] if the file cannot be read, is no such image, is damaged or cut short, or is larger than
    /// [`MAX_SIDE`] pixels a side or 512 MiB in memory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let read = || {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
        if bytes.len() as u64 > MAX_BYTES {
            let found = format!("a file of more than {} MiB", MAX_BYTES >> 20);
            return Err(ImageError::TooLarge { path: path.to_owned(), found });
        }
        Self::decode(&bytes, path)
    }

    /// Reads an image from the bytes of a PNG, JPEG or WebP file; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn decode(bytes: &[u8], path: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path = path.as_ref().to_owned();
        if bytes.is_empty() {
            return Err(ImageError::EmptyFile { path });
        }
        let format = match image::guess_format(bytes) {
            Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
            Ok(other) => return Err(ImageError::Format { path, found: format!("{other:?}") }),
            Err(_) => return Err(ImageError::Format { path, found: "no image".to_owned() }),
        };
        let image = match decode_upright(bytes, format) {
            Ok(image) => image,
            Err(image::ImageError::Limits(limit)) => {
                return Err(ImageError::TooLarge { path, found: limit.to_string() });
            }
            Err(source) => return Err(ImageError::Decode { path, source }),
        };
        if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
            return Err(ImageError::Truncated { path });
        }
        let size = ImageSize { width: image.width() as usize, height: image.height() as usize };
        if size.width == 0 || size.height == 0 {
            return Err(ImageError::EmptyFile { path });
        }
        Ok(Self { size, samples: opaque_samples(image) })
    }

    /// Returns the image's size, orientation applied.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// Makes the tensor a model reads: `[1, 3, height, width]` in [-1, 1], both sides multiples of `factor`.
    ///
    /// With a `size` the image is cropped to the centre to its aspect ratio and resized (Lanczos with three lobes, not
    /// rounded). Without, the image keeps its scale, and each side is cropped in the middle to a multiple of `factor`. An
    /// image that has the size already is not touched: a pixel `v` of 0 to 255 becomes exactly `v / 127.5 - 1`.
    ///
    /// # Errors
    /// [`ImageError::Size`] if a side of `size` is no multiple of `factor`, 0 or above [`MAX_SIDE`];
    /// [`ImageError::TooSmall`] if without `size` a side is shorter than `factor`.
    pub fn prepare(&self, size: Option<ImageSize>, factor: usize) -> Result<Array4<f64>, ImageError> {
        let factor = factor.max(1);
        let size = match size {
            Some(size) => {
                size.check(factor)?;
                size
            }
            None => {
                let whole = |side: usize| side / factor * factor;
                let size = ImageSize { width: whole(self.size.width), height: whole(self.size.height) };
                if size.width == 0 || size.height == 0 {
                    return Err(ImageError::TooSmall { size: self.size, factor });
                }
                return Ok(self.resize(
                    Axis::crop(self.size.width, size.width),
                    Axis::crop(self.size.height, size.height),
                ));
            }
        };
        // The largest box with the aspect ratio that was asked for.
        let (width, height) = (self.size.width as f64, self.size.height as f64);
        let (wide, high) = (size.width as f64, size.height as f64);
        let (box_width, box_height) = if width * high > height * wide {
            (height * wide / high, height)
        } else {
            (width, width * high / wide)
        };
        Ok(self.resize(
            Axis::centred(self.size.width, box_width, size.width),
            Axis::centred(self.size.height, box_height, size.height),
        ))
    }

    /// Makes the tensor of the whole image at its own size, `[1, 3, height, width]` in [-1, 1].
    pub fn to_tensor(&self) -> Array4<f64> {
        self.resize(
            Axis::crop(self.size.width, self.size.width),
            Axis::crop(self.size.height, self.size.height),
        )
    }

    fn resize(&self, columns: Axis, rows: Axis) -> Array4<f64> {
        let (width, height) = (columns.len(), rows.len());
        let row_bytes = self.size.width * 3;
        // Rows first along their length, as many as the columns' pass will read.
        let wanted = rows.sources();
        let mut narrow = vec![0.0; wanted.len() * width * 3];
        for (line, y) in wanted.clone().enumerate() {
            let row = &self.samples[y * row_bytes..][..row_bytes];
            let out = &mut narrow[line * width * 3..][..width * 3];
            for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
                for (channel, value) in pixel.iter_mut().enumerate() {
                    // 257 divides the samples of 8-bit images, so this is exact for them.
                    *value = columns.weigh(x, |source| f64::from(row[source * 3 + channel]) / 257.0);
                }
            }
        }
        Array4::from_shape_fn((1, 3, height, width), |(_, channel, y, x)| {
            let column = |source: usize| narrow[((source - wanted.start) * width + x) * 3 + channel];
            rows.weigh(y, column).clamp(0.0, 255.0) / 127.5 - 1.0
        })
    }
}

fn decode_upright(bytes: &[u8], format: ImageFormat) -> image::ImageResult<DynamicImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    // EXIF data that makes no sense is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Converts to RGB of 16 bits, laying what is transparent over white.
fn opaque_samples(image: DynamicImage) -> Vec<u16> {
    const WHITE: u64 = 65535;
    let over_white = |value: u64, alpha: u64| {
        // Rounded to the nearest of 65536 levels; exact where alpha is full.
        ((value * alpha + WHITE * (WHITE - alpha) + WHITE / 2) / WHITE) as u16
    };
    let eight_bits = !matches!(
        image,
        DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
            | DynamicImage::ImageRgb16(_)
            | DynamicImage::ImageRgba16(_)
    );
    match (image.color().has_alpha(), eight_bits) {
        (false, true) => image.into_rgb8().iter().map(|&v| u16::from(v) * 257).collect(),
        (false, false) => image.into_rgb16().into_raw(),
        (true, true) => {
            let pixels = image.into_rgba8();
            let wide = |v: u8| u64::from(v) * 257;
            pixels.pixels().flat_map(|p| [0, 1, 2].map(|c| over_white(wide(p[c]), wide(p[3])))).collect()
        }
        (true, false) => {
            let pixels = image.into_rgba16();
            pixels
                .pixels()
                .flat_map(|p| [0, 1, 2].map(|c| over_white(u64::from(p[c]), u64::from(p[3]))))
                .collect()
        }
    }
}

/// Walks a JPEG's segments to its end marker. The decoder fills what is missing with grey and says nothing.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            0xd9 => return true,
            0xff => at += 1,
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
                if marker == 0xda {
                    // Compressed data, in which ff is followed by 00 or a restart marker.
                    let end =
                        bytes.get(at..).unwrap_or_default().windows(2).position(|pair| {
                            pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff | 0xd0..=0xd7)
                        });
                    let Some(end) = end else { return false };
                    at += end;
                }
            }
        }
    }
    false
}

/// Converts an image `[3, height, width]` in [-1, 1] to 8 bits: `(v + 1) 127.5` rounded to the nearest, halves away from
/// zero, values outside clamped. Returns RGB in reading order.
///
/// # Errors
/// [`ImageError::Shape`] if the first extent is not 3 or another is 0, [`ImageError::NotANumber`] if a value is none.
pub fn to_rgb8(image: ArrayView3<'_, f64>) -> Result<Vec<u8>, ImageError> {
    let (channels, height, width) = image.dim();
    if channels != 3 || height == 0 || width == 0 {
        return Err(ImageError::Shape { shape: [channels, height, width] });
    }
    let count = image.iter().filter(|value| value.is_nan()).count();
    if count > 0 {
        return Err(ImageError::NotANumber { count });
    }
    let pixels = image.permuted_axes([1, 2, 0]);
    Ok(pixels.iter().map(|v| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8).collect())
}

/// Writes an image `[3, height, width]` in [-1, 1] as an 8-bit RGB PNG, complete or not at all.
///
/// # Errors
/// As [`to_rgb8`] and [`write_atomically`]; [`ImageError::TooLarge`] above 2^32 - 1 pixels a side.
pub fn write_png(path: impl AsRef<Path>, image: ArrayView3<'_, f64>) -> Result<(), ImageError> {
    let path = path.as_ref();
    let (_, height, width) = image.dim();
    let pixels = to_rgb8(image)?;
    let (Ok(columns), Ok(rows)) = (u32::try_from(width), u32::try_from(height)) else {
        let found = ImageSize { width, height }.to_string();
        return Err(ImageError::TooLarge { path: path.to_owned(), found });
    };
    write_atomically(path, |writer| {
        let encoder = PngEncoder::new(writer);
        encoder.write_image(&pixels, columns, rows, ExtendedColorType::Rgb8).map_err(io::Error::other)
    })?;
    Ok(())
}
