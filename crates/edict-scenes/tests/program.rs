//! The program, as the training script calls it.

use std::process::Command;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[test]
fn writes_pictures_and_captions_of_the_seeds_asked_for() -> Outcome {
    let folder = tempfile::tempdir()?;
    let status = Command::new(env!("CARGO_BIN_EXE_edict-scenes"))
        .args(["dataset", "--count", "5", "--seed", "40", "--size", "32", "--captions", "3", "--out"])
        .arg(folder.path())
        .status()?;
    assert!(status.success());
    let bytes = std::fs::read(folder.path().join("images.npy"))?;
    let header = bytes.len() - 5 * 32 * 32 * 3;
    assert!(String::from_utf8_lossy(&bytes[..header]).contains("'shape': (5, 32, 32, 3)"));
    let scene = edict_scenes::Scene::from_seed(41);
    let picture = scene.render(32)?;
    let begin = header + 32 * 32 * 3;
    assert_eq!(&bytes[begin..begin + 32 * 32 * 3], picture.bytes());
    let captions = std::fs::read_to_string(folder.path().join("captions.txt"))?;
    let lines: Vec<&str> = captions.lines().collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[1], scene.captions(41, 3).join("\t"));
    Ok(())
}

#[test]
fn refuses_what_it_cannot_draw_with_a_reason() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("out");
    for options in [["--count", "1", "--size", "65"], ["--count", "2", "--seed", "18446744073709551615"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_edict-scenes"))
            .arg("dataset")
            .args(options)
            .arg("--out")
            .arg(&path)
            .output()?;
        assert_eq!(output.status.code(), Some(1));
        assert!(!output.stderr.is_empty() && !path.exists());
    }
    Ok(())
}

#[test]
fn draws_contact_sheets() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sheet.png");
    for extra in [["--columns", "3"].as_slice(), ["--edits"].as_slice()] {
        let output = Command::new(env!("CARGO_BIN_EXE_edict-scenes"))
            .args(["show", "--rows", "2", "--size", "32", "--zoom", "1", "--out"])
            .arg(&path)
            .args(extra)
            .output()?;
        assert!(output.status.success());
        assert!(std::fs::metadata(&path)?.len() > 1000);
    }
    Ok(())
}

#[test]
fn draws_one_picture_and_says_what_it_shows() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("scene.png");
    let output = Command::new(env!("CARGO_BIN_EXE_edict-scenes"))
        .args(["draw", "--seed", "41", "--size", "32", "--out"])
        .arg(&path)
        .output()?;
    assert!(output.status.success());
    let scene = edict_scenes::Scene::from_seed(41);
    assert_eq!(image::open(&path)?.into_rgb8().into_raw(), scene.render(32)?.bytes());
    let caption = scene.caption(&edict_scenes::Wording::COMPLETE);
    assert_eq!(String::from_utf8(output.stdout)?, format!("{caption}\n"));
    Ok(())
}
