//! `edict compare`: every sampler in one table, and its drawing.

use serde_json::json;

use super::*;

const SAMPLERS: [&str; 8] =
    ["edict", "belm", "bdia", "edict_float", "belm_float", "bdia_float", "edict_f32", "ddim"];

fn compare() -> Edict {
    edict("compare")
        .with("--model", model("tiny-sd1"))
        .with("--image", image("photo-64.png"))
        .with("--prompt", "a photo of a cat")
}

/// Text of an XML document's elements, which must be well-formed: every tag closed in order, attributes quoted and given once, nothing bare
/// that has to be escaped, one root.
fn xml_texts(document: &str) -> Result<Vec<String>, String> {
    let (mut open, mut texts, mut roots) = (Vec::<&str>::new(), Vec::new(), 0);
    let mut rest = document.trim();
    while !rest.is_empty() {
        let text = &rest[..rest.find('<').unwrap_or(rest.len())];
        rest = &rest[text.len()..];
        for reference in text.split('&').skip(1) {
            let name = reference.split(';').next().filter(|name| name.len() < reference.len());
            let known =
                |name: &str| ["lt", "gt", "amp", "quot", "apos"].contains(&name) || name.starts_with('#');
            name.filter(|name| known(name)).ok_or_else(|| format!("a bare & in {text:?}"))?;
        }
        if open.is_empty() && !text.trim().is_empty() {
            return Err(format!("{text:?} outside the root"));
        }
        if !text.trim().is_empty() {
            texts.push(text.trim().to_owned());
        }
        let Some(tag) = rest.strip_prefix('<') else { break };
        // A `>` may stand in a quoted value.
        let mut quote = None;
        let end = tag.char_indices().find(|(_, c)| {
            match quote {
                Some(q) => quote = if *c == q { None } else { quote },
                None if ['"', '\''].contains(c) => quote = Some(*c),
                None => return *c == '>',
            }
            false
        });
        let (end, _) = end.ok_or("a tag that never ends")?;
        let (tag, after) = (&tag[..end], &tag[end + 1..]);
        rest = after;
        if tag.starts_with(['?', '!']) {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name.trim()) {
                return Err(format!("</{name}> closes nothing"));
            }
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        check_attributes(attributes)?;
        roots += usize::from(open.is_empty());
        if !empty {
            open.push(name);
        }
    }
    match (open.last(), roots) {
        (None, 1) => Ok(texts),
        (Some(name), _) => Err(format!("<{name}> is not closed")),
        (None, roots) => Err(format!("{roots} roots")),
    }
}

fn check_attributes(attributes: &str) -> Result<(), String> {
    let (mut rest, mut names) = (attributes.trim(), Vec::new());
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').ok_or_else(|| format!("{rest:?} is no attribute"))?;
        let quote =
            value.chars().next().filter(|c| ['"', '\''].contains(c)).ok_or("a value without quotes")?;
        let (value, after) = value[1..].split_once(quote).ok_or("a value that never ends")?;
        if value.contains('<') || names.contains(&name) {
            return Err(format!("attribute {name} = {value:?}"));
        }
        names.push(name);
        rest = after.trim_start();
    }
    Ok(())
}

#[test]
fn compares_every_sampler_and_draws_the_table() {
    let desk = Desk::new();
    // Networks in f64: in f32 they round what samplers in floats lose, and flip at a border once in a while.
    let call = compare().args("--steps 50 --strength 1 --dtype f64 --guidance 3");
    let report = call.with("--plot", desk.at("out.svg")).json();
    assert_eq!(report["command"], "compare");
    assert_eq!(report["outputs"], json!([desk.at("out.svg")]));
    let rows = report["samplers"].as_object().unwrap();
    let mut names: Vec<_> = rows.keys().map(String::as_str).collect();
    let mut expected = SAMPLERS;
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let error = |name: &str| rows[name]["latent_max_abs_error"].as_f64().unwrap();
    for exact in ["edict", "belm", "bdia"] {
        assert_eq!((error(exact), &rows[exact]["latent_mse"]), (0.0, &json!(0.0)), "{exact}");
        assert_eq!(rows[exact]["bit_identical"], json!({"equal": ELEMENTS, "total": ELEMENTS}), "{exact}");
        // The autoencoder alone decodes the latent before it is moved to the lattice, by 5e-13 at most.
        let [found, alone] = [&rows[exact], &report["vae"]].map(|row| row["pixel_mse"].as_f64().unwrap());
        assert!((found / alone - 1.0).abs() < 1e-9, "{exact}: {found} {alone}");
    }
    for float in ["edict_float", "belm_float", "bdia_float", "edict_f32", "ddim"] {
        assert!(error(float) > 0.0, "{float}: {report}");
    }
    // Latents of 24 bits instead of 53 err 2^29 times as much, within a factor of a hundred for the path that roundings take.
    let ratio = error("edict_f32") / error("edict_float");
    assert!(ratio > 2f64.powi(29) / 100.0, "{ratio:e}");
    for other in SAMPLERS.iter().filter(|name| **name != "ddim") {
        assert!(error("ddim") > 10.0 * error(other), "ddim {:e}, {other} {:e}", error("ddim"), error(other));
    }
    // Two calls a step each way, or one and one the less.
    for (name, calls) in [("edict", 200), ("edict_f32", 200), ("belm", 99), ("bdia_float", 99), ("ddim", 100)]
    {
        assert_eq!(rows[name]["network_calls"], calls, "{name}");
    }

    let drawn = String::from_utf8(desk.bytes("out.svg")).unwrap();
    let texts = xml_texts(&drawn).unwrap();
    for name in SAMPLERS {
        assert!(texts.iter().any(|text| text == name), "{name} is not in {texts:?}");
    }
    assert!(drawn.contains("<svg"));
    // The check sees what is not well-formed.
    let middle = drawn.rfind("</text>").unwrap();
    for damaged in [
        drawn.replacen("</text>", "", 1),
        drawn.replacen("</svg>", "", 1),
        drawn.replacen("=\"", "=", 1),
        format!("{drawn}{drawn}"),
        format!("{} & {}", &drawn[..middle], &drawn[middle..]),
        format!("{} < {}", &drawn[..middle], &drawn[middle..]),
    ] {
        xml_texts(&damaged).unwrap_err();
    }
}

#[test]
fn a_drawing_that_cannot_be_written_is_found_out_before_the_work() {
    let desk = Desk::new();
    fs::create_dir(desk.at("folder")).unwrap();
    for (path, says) in
        [(desk.at("none/out.svg"), "is not a directory"), (desk.at("folder"), "is a directory")]
    {
        // Before anything is read: neither the model nor the picture is there.
        let call = compare().instead("--model", desk.at("nothing")).instead("--image", desk.at("nothing"));
        let run = call.with("--plot", &path).run();
        let error = run.error(1);
        assert!(error.contains(path.to_str().unwrap()) && error.contains(says), "{error}");
    }
    assert_eq!(desk.names(), ["folder"]);
}
