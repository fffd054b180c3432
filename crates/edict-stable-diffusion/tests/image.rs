//! Images of every kind against what Pillow reads (see `tests/golden/README.md`), and in and out again.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use edict_stable_diffusion::{ImageError, ImageSize, MAX_SIDE, Picture, to_rgb8, write_png};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use ndarray::{Array3, Array4, s};
use proptest::prelude::*;
use serde_json::Value;

fn golden(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(relative)
}

fn pictures() -> Value {
    serde_json::from_slice(&fs::read(golden("pictures/pictures.json")).unwrap()).unwrap()
}

fn size(width: usize, height: usize) -> ImageSize {
    ImageSize { width, height }
}

/// A test image in which every pixel is different.
fn sample(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, (x * 13 + y * 5) as u8]))
}

fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decode(bytes: &[u8]) -> Result<Picture, ImageError> {
    Picture::decode(bytes, "test.png")
}

/// The tensor in units of 8-bit pixels.
fn levels(tensor: &Array4<f64>) -> Array4<f64> {
    (tensor + 1.0) * 127.5
}

#[test]
fn reads_every_mode_and_orientation_as_pillow_does() {
    let pictures = pictures();
    let mut wrong = Vec::new();
    for entry in pictures["read"].as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let tolerance = entry["tolerance"].as_f64().unwrap();
        let rows: Vec<&str> =
            entry["rows"].as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect();
        let picture = Picture::open(golden("pictures").join(file)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(picture.size(), size(rows[0].len() / 6, rows.len()), "{file}");
        let found = levels(&picture.to_tensor());
        let worst = found.indexed_iter().map(|((_, channel, y, x), v)| {
            let at = x * 6 + channel * 2;
            (v - f64::from(u8::from_str_radix(&rows[y][at..at + 2], 16).unwrap())).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        if worst > tolerance + 1e-9 {
            wrong.push(format!("{file}: {worst}, should be at most {tolerance}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crops_and_resizes_as_pillow_does_in_floating_point() {
    let pictures = pictures();
    for entry in pictures["fit"].as_array().unwrap() {
        let side = |key: &str| entry[key].as_u64().unwrap() as usize;
        let picture = Picture::open(golden("images").join(entry["image"].as_str().unwrap())).unwrap();
        let found = picture.prepare(Some(size(side("width"), side("height"))), 8).unwrap();
        let expected = Picture::open(golden("pictures").join(entry["result"].as_str().unwrap())).unwrap();
        let difference = levels(&found) - levels(&expected.to_tensor());
        let worst = difference.iter().fold(0.0_f64, |worst, d| worst.max(d.abs()));
        // Half a level of rounding, and Pillow's single precision.
        assert!(worst < 0.5 + 1e-3, "{entry}: {worst}");
    }
}

#[test]
fn an_image_of_the_right_size_is_not_touched() {
    let image = sample(24, 16);
    let picture = decode(&encode(image.clone(), ImageFormat::Png)).unwrap();
    for asked in [None, Some(size(24, 16))] {
        let tensor = picture.prepare(asked, 8).unwrap();
        assert_eq!(tensor.dim(), (1, 3, 16, 24));
        for (x, y, pixel) in image.enumerate_pixels() {
            for channel in 0..3 {
                let expected = f64::from(pixel[channel]) / 127.5 - 1.0;
                let found = tensor[(0, channel, y as usize, x as usize)];
                assert_eq!(found.to_bits(), expected.to_bits(), "{pixel:?} at {x},{y}");
            }
        }
    }
}

#[test]
fn every_level_comes_back_through_a_png() {
    let image = RgbImage::from_fn(256, 8, |x, y| Rgb([x as u8, 255 - x as u8, (x + y) as u8]));
    let picture = decode(&encode(image.clone(), ImageFormat::Png)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.png");
    write_png(&path, picture.to_tensor().slice(s![0, .., .., ..])).unwrap();
    assert_eq!(image::open(&path).unwrap().into_rgb8(), image);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn sixteen_bits_keep_their_precision() {
    let image = image::ImageBuffer::from_fn(64, 8, |x, y| Rgb([(x * 1021 + y) as u16, 65535 - x as u16, 1]));
    let picture = decode(&encode(DynamicImage::ImageRgb16(image.clone()), ImageFormat::Png)).unwrap();
    let tensor = picture.to_tensor();
    for (x, y, pixel) in image.enumerate_pixels() {
        for channel in 0..3 {
            let expected = f64::from(pixel[channel]) / 32767.5 - 1.0;
            let found = tensor[(0, channel, y as usize, x as usize)];
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }
}

#[test]
fn transparent_pixels_lie_over_white() {
    let pixels = [
        ([10, 20, 30, 0], [255.0; 3]),
        ([10, 20, 30, 255], [10.0, 20.0, 30.0]),
        ([0, 51, 255, 51], [204.0, 214.2, 255.0]),
    ];
    for (pixel, expected) in pixels {
        let image = image::RgbaImage::from_pixel(8, 8, image::Rgba(pixel));
        let found = levels(&decode(&encode(image, ImageFormat::Png)).unwrap().to_tensor());
        for channel in 0..3 {
            let level = found[(0, channel, 3, 3)];
            assert!((level - expected[channel]).abs() < 0.5 / 257.0 + 1e-12, "{level} for {pixel:?}");
        }
    }
}

#[test]
fn without_a_size_the_middle_is_kept() {
    let picture = Picture::open(golden("images/chelsea-451x300.png")).unwrap();
    let whole = picture.to_tensor();
    let tensor = picture.prepare(None, 8).unwrap();
    assert_eq!(tensor.dim(), (1, 3, 296, 448));
    assert_eq!(tensor, whole.slice(s![.., .., 2..298, 1..449]));
}

#[test]
fn sizes_that_do_not_fit_the_model_are_refused_with_those_that_do() {
    let picture = decode(&encode(sample(24, 16), ImageFormat::Png)).unwrap();
    let message = |asked| picture.prepare(Some(asked), 8).unwrap_err().to_string();
    assert!(message(size(500, 300)).ends_with("take 496x296 or 504x304"), "{}", message(size(500, 300)));
    assert!(message(size(512, 300)).ends_with("take 512x296 or 512x304"));
    assert!(message(size(3, 0)).ends_with("take 8x8"));
    assert!(message(size(usize::MAX, 8)).ends_with(&format!("take {MAX_SIDE}x8")));
    let small = decode(&encode(sample(7, 16), ImageFormat::Png)).unwrap();
    assert!(matches!(small.prepare(None, 8), Err(ImageError::TooSmall { factor: 8, .. })));
    assert_eq!(small.prepare(Some(size(16, 8)), 8).unwrap().dim(), (1, 3, 8, 16));
}

#[test]
fn sizes_are_read_from_text() {
    assert_eq!("512x384".parse(), Ok(size(512, 384)));
    assert_eq!("64X8".parse(), Ok(size(64, 8)));
    for text in [
        "",
        "512",
        "x",
        "512x",
        "0x8",
        "8x0",
        "+8x8",
        "-8x8",
        "8x8x8",
        " 8x8",
        "8.5x8",
        "99999999999999999999x8",
    ] {
        let error = text.parse::<ImageSize>().expect_err(text);
        assert!(error.to_string().contains("WIDTHxHEIGHT"), "{error}");
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let error = |path: &Path| {
        let error = Picture::open(path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        error
    };
    assert!(matches!(error(&directory.path().join("none.png")), ImageError::Read { .. }));
    assert!(matches!(error(directory.path()), ImageError::Read { .. }));
    assert!(matches!(error(&write("empty.png", b"")), ImageError::EmptyFile { .. }));
    assert!(matches!(error(&write("text.png", b"not an image at all")), ImageError::Format { .. }));
    let gif = error(&write("a.png", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"));
    assert!(matches!(&gif, ImageError::Format { found, .. } if found == "Gif"), "{gif}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_not_a_panic_or_a_grey_picture() {
    let smooth = RgbImage::from_fn(64, 48, |x, y| Rgb([(x * 4) as u8, (y * 5) as u8, 128]));
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let bytes = encode(smooth.clone(), format);
        decode(&bytes).unwrap();
        // The last bytes of a PNG are its end chunk, those of a WebP may be padding: without them the picture is whole.
        for length in (0..bytes.len() - 16).step_by(7).chain([bytes.len() - 16]) {
            if let Ok(picture) = decode(&bytes[..length]) {
                panic!("{format:?} cut to {length} of {} bytes: {picture:?}", bytes.len());
            }
        }
    }
    let progressive = fs::read(golden("pictures/progressive.jpg")).unwrap();
    decode(&progressive).unwrap();
    for length in 0..progressive.len() - 1 {
        assert!(decode(&progressive[..length]).is_err(), "cut to {length}");
    }
}

/// A PNG header that promises an image of any size.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encode(sample(8, 8), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = 0xffff_ffff_u32;
    for &byte in &bytes[12..29] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

#[test]
fn images_beyond_the_limits_are_refused_before_they_are_decoded() {
    for (width, height) in [(16385, 8), (8, 16385), (16384, 16384), (u32::MAX >> 1, u32::MAX >> 1)] {
        let error = decode(&png_header(width, height)).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{width}x{height}: {error}");
    }
    for (width, height) in [(0, 8), (8, 0), (0, 0)] {
        decode(&png_header(width, height)).expect_err("an image without pixels");
    }
}

#[test]
fn what_is_written_is_clamped_and_rounded_and_must_be_numbers() {
    let values =
        [-f64::INFINITY, -1.2, -1.0, -1.0 + 0.49 / 127.5, -1.0 + 0.51 / 127.5, 0.0, 1.0, 3.0, f64::INFINITY];
    let image = Array3::from_shape_fn((3, 1, values.len()), |(_, _, x)| values[x]);
    let found: Vec<u8> = to_rgb8(image.view()).unwrap().chunks(3).map(|pixel| pixel[0]).collect();
    // 127.5 is halfway and goes away from zero.
    assert_eq!(found, [0, 0, 0, 0, 1, 128, 255, 255, 255]);

    let mut broken = image;
    broken[(1, 0, 4)] = f64::NAN;
    let path = Path::new("never-written.png");
    assert!(matches!(write_png(path, broken.view()), Err(ImageError::NotANumber { count: 1 })));
    assert!(matches!(write_png(path, Array3::zeros((1, 2, 2)).view()), Err(ImageError::Shape { .. })));
    assert!(matches!(write_png(path, Array3::zeros((3, 0, 2)).view()), Err(ImageError::Shape { .. })));
    assert!(!path.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_image_fits_any_size(width in 1u32..90, height in 1u32..90, w in 1usize..12, h in 1usize..12) {
        let picture = decode(&encode(sample(width, height), ImageFormat::Png)).unwrap();
        let tensor = picture.prepare(Some(size(w * 8, h * 8)), 8).unwrap();
        prop_assert_eq!(tensor.dim(), (1, 3, h * 8, w * 8));
        prop_assert!(tensor.iter().all(|v| (-1.0..=1.0).contains(v)));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(seed in prop::collection::vec(any::<(u16, u8)>(), 1..6), format in 0usize..3) {
        let format = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP][format];
        let mut bytes = encode(sample(16, 12), format);
        for (at, value) in seed {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        if let Ok(picture) = decode(&bytes) {
            prop_assert!(picture.size().width > 0 && picture.size().height > 0);
        }
    }
}
