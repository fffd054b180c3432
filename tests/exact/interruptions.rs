//! Runs that are stopped, by Ctrl-C or for good, at any moment.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use edict_stable_diffusion::{Checkpoint, Inversion};
use serde_json::json;

use super::*;

fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Moments of a run as shares of it: never twice the same, and spread over all of it.
fn moments() -> impl Iterator<Item = f64> {
    (1..).map(|n| (f64::from(n) * 0.618_033_988_749_895).fract())
}

/// Runs a call until `after` and interrupts it; returns how it ended.
fn interrupt(call: &Edict, after: Duration) -> Output {
    let child = call.spawn();
    std::thread::sleep(after);
    send("INT", &child);
    child.wait_with_output().unwrap()
}

/// A command whose interruption is tried: its flags, and where its results are.
struct Job {
    name: String,
    /// The call, without the folder it writes to.
    call: Box<dyn Fn(&Desk) -> Edict + Sync>,
    /// The command, the model and the output: nothing else.
    bare: Box<dyn Fn(&Desk) -> Edict + Sync>,
    output: &'static str,
    results: Vec<&'static str>,
}

impl Job {
    fn checkpoint(&self) -> String {
        format!("{}.part.safetensors", self.output)
    }

    fn results(&self, desk: &Desk) -> Vec<Vec<u8>> {
        self.results.iter().map(|name| desk.bytes(name)).collect()
    }

    /// Interrupts the call at one moment after another until it leaves a checkpoint, whose bytes are returned; `run` is how long the
    /// call takes, `wanted` what it ends in.
    fn checkpoint_of(&self, run: Duration, from: f64, wanted: &[Vec<u8>]) -> Vec<u8> {
        // How fast the machine is may change meanwhile: too early and too late lead to later and earlier.
        let mut pace = 1.0;
        for share in moments().take(60) {
            let desk = Desk::new();
            self.prepare(&desk);
            let before = desk.names();
            let share = from + (1.0 - from) * share;
            let output = interrupt(&(self.call)(&desk).arg("--quiet"), run.mul_f64(pace * share));
            let error = String::from_utf8(output.stderr).unwrap();
            match output.status.code() {
                // It was over, or the signal came before there was anything to catch it.
                Some(0) => {
                    assert!(self.results(&desk) == *wanted, "{}: interrupted too late", self.name);
                    pace *= 0.8;
                }
                None => {
                    assert_eq!(desk.names(), before, "{}: {error}", self.name);
                    pace *= 1.3;
                }
                Some(1) => {
                    assert!(error.starts_with("error: interrupted"), "{}: {error}", self.name);
                    // Whole pictures of the targets that are done, the checkpoint, and nothing else.
                    for name in desk.names().iter().filter(|name| !before.contains(name)) {
                        match self.results.iter().position(|result| result == name) {
                            Some(at) => assert!(desk.bytes(name) == wanted[at], "{}: {name}", self.name),
                            None => assert_eq!(*name, self.checkpoint(), "{}: {error}", self.name),
                        }
                    }
                    let left = desk.at(&self.checkpoint()).exists();
                    assert_eq!(left, error.contains("--resume"), "{}: {error}", self.name);
                    if left {
                        assert!(error.contains(desk.at(&self.checkpoint()).to_str().unwrap()), "{error}");
                        return desk.bytes(&self.checkpoint());
                    }
                    pace *= 1.3;
                }
                other => panic!("{}: status {other:?}: {error}", self.name),
            }
        }
        panic!("{}: 60 interruptions leave no checkpoint", self.name)
    }

    fn prepare(&self, desk: &Desk) {
        if self.name.starts_with("generate from") {
            fs::copy(shared_inversion(&self.name), desk.at("inversion")).unwrap();
        }
    }
}

/// An inversion for each sampler, made once.
fn shared_inversion(name: &str) -> PathBuf {
    static MADE: std::sync::Mutex<BTreeMap<String, TempDir>> = std::sync::Mutex::new(BTreeMap::new());
    let sampler = name.rsplit_once(": ").unwrap().1;
    let mut made = MADE.lock().unwrap();
    let folder = made.entry(sampler.to_owned()).or_insert_with(|| {
        let desk = Desk::new();
        desk.invert("tiny-sd1", "inversion").args(RUN).args(sampler).arg("--quiet").run().succeeds();
        desk.0
    });
    folder.path().join("inversion")
}

/// Long enough for an interruption to fall into it.
const RUN: &str = "--steps 18 --strength 1";

fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for sampler in ["--sampler edict", "--sampler belm", "--sampler ddim", "--float"] {
        let bare = |command: &'static str, output: &'static str| -> Box<dyn Fn(&Desk) -> Edict + Sync> {
            Box::new(move |desk| {
                edict(command).with("--model", model("tiny-sd1")).with("--output", desk.at(output))
            })
        };
        let mut add = |name: &str, output, results: &[&'static str], more: &'static str| {
            let command = name.split(' ').next().unwrap();
            let command = ["invert", "generate", "edit"].into_iter().find(|one| *one == command).unwrap();
            let (from_file, picture) = (name.starts_with("generate from"), command != "generate");
            let call = bare(command, output);
            jobs.push(Job {
                name: format!("{name}: {sampler}"),
                call: Box::new(move |desk| {
                    let call = call(desk).args(more);
                    let call = if picture { call.with("--image", image("photo-64.png")) } else { call };
                    if from_file {
                        call.with("--inversion", desk.at("inversion"))
                    } else {
                        call.args(RUN).args(sampler)
                    }
                }),
                bare: bare(command, output),
                output,
                results: results.to_vec(),
            });
        };
        add("invert", "inversion", &["inversion"], "--prompt cat --guidance 2");
        add("generate from a file", "out.png", &["out.png"], "--prompt dog --negative grass --guidance 4");
        add(
            "generate",
            "out.png",
            &["out.png"],
            "--prompt dog --seed 7 --size 64x64 --guidance-interval 100:800",
        );
        let targets = "--source cat --target dog --target grass --source-guidance 1 --negative sky";
        add("edit", "out.png", &["out-1.png", "out-2.png"], targets);
    }
    jobs
}

/// Runs a call to its end; returns what it ended in and how long it took.
fn uninterrupted(job: &Job) -> (Vec<Vec<u8>>, Duration) {
    let desk = Desk::new();
    job.prepare(&desk);
    let begun = Instant::now();
    (job.call)(&desk).arg("--quiet").run().succeeds();
    (job.results(&desk), begun.elapsed())
}

#[test]
fn an_interrupted_run_is_resumed_to_the_same_bytes() {
    two_at_a_time(&jobs(), |job| {
        let (wanted, run) = uninterrupted(job);
        // Somewhere in the run, and an edit towards its end too, where it is at its second target.
        let from: &[f64] = if job.results.len() == 2 { &[0.0, 0.7] } else { &[0.0] };
        for &from in from {
            let checkpoint = job.checkpoint_of(run, from, &wanted);
            for again in [false, true] {
                let desk = Desk::new();
                job.prepare(&desk);
                let left = desk.at(&job.checkpoint());
                fs::write(&left, &checkpoint).unwrap();
                // Pictures that were finished are not made again.
                let finished =
                    Checkpoint::from_bytes(&checkpoint).unwrap().generation.map_or(0, |g| g.finished);
                for (name, bytes) in job.results.iter().zip(&wanted).take(finished) {
                    fs::write(desk.at(name), bytes).unwrap();
                }
                let call = if again { (job.call)(&desk) } else { (job.bare)(&desk) };
                let report = call.with("--resume", &left).arg("--quiet").json();
                assert_eq!(report["warnings"], json!([]), "{}", job.name);
                assert!(job.results(&desk) == wanted, "{}: resumed to other bytes", job.name);
                assert!(!left.exists(), "{}: the checkpoint is still there", job.name);
            }
        }
    });
}

/// Reads what a program says until a line begins with `start`.
fn wait_for(stderr: &mut impl BufRead, start: &str) {
    let mut line = String::new();
    while !line.starts_with(start) {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "ended before {start:?}");
    }
}

/// The last step is made: what is left, decoding and writing, takes longer here than the steps.
#[test]
fn an_interruption_at_the_end_of_a_run_loses_nothing() {
    let from_noise = "--prompt cat --seed 3 --size 192x192 --steps 2 --sampler ddim --guidance 1";
    let edits = "--source cat --target dog --size 192x192 --steps 2 --sampler belm --strength 1 --guidance 1";
    let (mut kept, mut done) = (0, 0);
    for (command, flags) in [("generate", from_noise), ("edit", edits)] {
        let call = |output: PathBuf| {
            let call = edict(command).with("--model", model("tiny-sd1")).with("--output", output);
            if command == "edit" { call.with("--image", image("photo-64.png")) } else { call }
        };
        let desk = Desk::new();
        call(desk.at("whole.png")).args(flags).run().succeeds();
        for delay in [0, 2, 5, 10, 20, 40, 80] {
            let mut child = call(desk.at("out.png")).args(flags).spawn();
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            wait_for(&mut stderr, "generating: step 2/2");
            std::thread::sleep(Duration::from_millis(delay));
            send("INT", &child);
            let mut rest = String::new();
            stderr.read_to_string(&mut rest).unwrap();
            let left = desk.at("out.png.part.safetensors");
            if child.wait().unwrap().success() {
                done += 1;
                assert_eq!(desk.names(), ["out.png", "whole.png"], "{rest}");
            } else {
                kept += 1;
                assert_eq!(desk.names(), ["out.png.part.safetensors", "whole.png"], "{rest}");
                let resume = edict(command).with("--model", model("tiny-sd1"));
                let report = resume.with("--output", desk.at("out.png")).with("--resume", &left).json();
                assert_eq!(report["network_calls"], 0, "every step was made");
            }
            assert!(desk.bytes("out.png") == desk.bytes("whole.png"));
            fs::remove_file(desk.at("out.png")).unwrap();
        }
    }
    println!("{kept} checkpoints, {done} ended all the same");
    assert!(kept > 0, "every run was over before it was interrupted");
}

/// A generation may be in another precision than its inversion was, and is resumed in that one.
#[test]
fn a_generation_in_a_precision_of_its_own_is_resumed_in_it() {
    let job = Job {
        name: "generate from a file: --sampler edict".to_owned(),
        call: Box::new(|desk| {
            let call =
                edict("generate").with("--model", model("tiny-sd1")).with("--output", desk.at("out.png"));
            call.with("--inversion", desk.at("inversion")).args("--prompt dog --dtype bf16")
        }),
        bare: Box::new(|desk| {
            edict("generate").with("--model", model("tiny-sd1")).with("--output", desk.at("out.png"))
        }),
        output: "out.png",
        results: vec!["out.png"],
    };
    let (wanted, run) = uninterrupted(&job);
    let checkpoint = job.checkpoint_of(run, 0.3, &wanted);
    let desk = Desk::new();
    let left = desk.at(&job.checkpoint());
    fs::write(&left, checkpoint).unwrap();
    desk.refuses((job.bare)(&desk).args("--dtype f32").with("--resume", &left), 2, &["--dtype", "bf16"]);
    let report = (job.bare)(&desk).with("--resume", &left).json();
    assert_eq!(report["settings"]["dtype"], "bf16");
    assert!(job.results(&desk) == wanted);
}

#[test]
fn resuming_refuses_flags_that_contradict_the_checkpoint() {
    let other = |kind: &str| -> &[(&str, &str)] {
        match kind {
            "invert" => &[("--prompt dog", "--prompt"), ("--negative dog", "--negative")],
            "generate from a file" => &[("--prompt cat", "--prompt"), ("--negative dog", "--negative")],
            "generate" => &[("--prompt cat", "--prompt"), ("--seed 8", "--seed"), ("--size 72x64", "--size")],
            _ => &[
                ("--source dog", "--source"),
                ("--target dog", "--target"),
                ("--target grass --target dog", "--target"),
                ("--source-guidance 2", "--source-guidance"),
                ("--negative cat", "--negative"),
                ("--source-negative cat", "--source-negative"),
            ],
        }
    };
    let every = [
        ("--steps 19", "--steps"),
        ("--strength 0.8", "--strength"),
        ("--guidance 7", "--guidance"),
        ("--guidance-interval 1:999", "--guidance-interval"),
        ("--sampler bdia", "--sampler"),
        ("--gamma 0.9", "--gamma"),
        ("--mixing-weight 0.5", "--mixing-weight"),
        ("--dtype f16", "--dtype"),
        ("--weights bf16", "--weights"),
    ];
    let jobs: Vec<_> = jobs().into_iter().filter(|job| job.name.ends_with("--sampler edict")).collect();
    two_at_a_time(&jobs, |job| {
        let (wanted, run) = uninterrupted(job);
        let checkpoint = job.checkpoint_of(run, 0.3, &wanted);
        let desk = Desk::new();
        let left = desk.at(&job.checkpoint());
        fs::write(&left, checkpoint).unwrap();
        let resume = || (job.bare)(&desk).with("--resume", &left);
        let kind = job.name.split(':').next().unwrap();
        for (flags, named) in every.iter().chain(other(kind)) {
            desk.refuses(resume().args(flags), 2, &[named, "the checkpoint", "leave"]);
        }
        desk.refuses(resume().arg("--float"), 2, &["--float", "the checkpoint"]);

        // Another command than the one that was stopped is told which it was.
        let others =
            [("invert", "--prompt cat"), ("edit", "--source cat --target dog"), ("generate", "--prompt cat")];
        for (command, flags) in others {
            if job.name.split([' ', ':']).next() == Some(command) {
                continue;
            }
            let call = edict(command).with("--model", model("tiny-sd1")).with("--output", desk.at("new.png"));
            let was = format!("was left by `edict {}`", job.name.split([' ', ':']).next().unwrap());
            let call = call.args(flags).with("--resume", &left);
            desk.refuses(call, 2, &[left.to_str().unwrap(), &was, "go on with that command"]);
        }
        // A checkpoint is no inversion.
        let call = edict("generate").with("--model", model("tiny-sd1")).with("--output", desk.at("new.png"));
        let call = call.with("--inversion", &left);
        desk.refuses(call, 1, &["the checkpoint of an interrupted run", "go on with `--resume`"]);
        // A checkpoint of this model, and no other.
        desk.refuses(resume().instead("--model", model("tiny-sd2")), 1, &["another model"]);
    });
}

#[test]
fn damaged_checkpoints_are_refused() {
    let jobs = jobs();
    for name in ["edit: --sampler edict", "edit: --sampler ddim", "invert: --sampler belm"] {
        let job = jobs.iter().find(|job| job.name == name).unwrap();
        let (wanted, run) = uninterrupted(job);
        let checkpoint = job.checkpoint_of(run, 0.3, &wanted);
        let desk = Desk::new();
        let (whole, damaged) = (desk.at("whole"), desk.at("damaged"));
        fs::write(&whole, &checkpoint).unwrap();
        let refused = |says: &[&str]| {
            let says = [&["damaged"], says].concat();
            desk.refuses((job.bare)(&desk).with("--resume", &damaged), 1, &says);
        };
        for length in [0, 7, 8, 100, checkpoint.len() / 2, checkpoint.len() - 1] {
            fs::write(&damaged, &checkpoint[..length]).unwrap();
            refused(&[]);
        }
        let levels = count_of(&whole, "run.timestep") + 1;
        for level in [levels as u64, levels as u64 + 1, u64::MAX] {
            rewrite(&whole, &damaged, |_, metadata| {
                metadata.get_mut("edict").unwrap()["state"]["level"] = json!(level);
            });
            refused(&["level"]);
        }
        rewrite(&whole, &damaged, |_, metadata| {
            metadata.get_mut("edict_checkpoint").unwrap()["command"] = json!(["invert"]);
        });
        refused(&["metadata"]);
        rewrite(&whole, &damaged, |tensors, _| tensors.retain(|tensor| tensor.0 != "x"));
        refused(&["`x`"]);
        rewrite(&whole, &damaged, |tensors, _| {
            data_of(tensors, "image_latent")[..8].copy_from_slice(&f64::NAN.to_le_bytes());
        });
        refused(&["image_latent"]);
        if !name.ends_with("ddim") {
            rewrite(&whole, &damaged, |tensors, _| data_of(tensors, "state.w")[0] ^= 1);
            refused(&["registers"]);
        }
        if name.starts_with("edit") {
            for finished in [json!(2), json!(u64::MAX), json!(-1), json!(0.5)] {
                rewrite(&whole, &damaged, |_, metadata| {
                    metadata.get_mut("edict_checkpoint").unwrap()["generation"]["finished"] =
                        finished.clone();
                });
                refused(&["`edict"]);
            }
            rewrite(&whole, &damaged, |_, metadata| {
                metadata.get_mut("edict_checkpoint").unwrap()["generation"]["prompts"] = json!([]);
            });
            refused(&["`edict"]);
        }
        // An inversion is no checkpoint, and a file that is not there is none.
        fs::copy(shared_inversion("generate from: --sampler edict"), &damaged).unwrap();
        refused(&["not a checkpoint"]);
        fs::remove_file(&damaged).unwrap();
        refused(&[]);
    }
}

#[test]
fn an_interrupted_verification_writes_no_inversion_and_is_resumed() {
    let desk = Desk::new();
    let call =
        |output| desk.invert("tiny-sd1", output).args("--steps 120 --strength 1 --guidance 1 --verify");
    call("whole").run().succeeds();
    let mut child = call("inversion").spawn();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut stderr, "inverting: step 120/120");
    // The way back has begun.
    assert!(!desk.at("inversion").exists());
    send("INT", &child);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert_eq!(desk.names(), ["inversion.part.safetensors", "whole"], "{rest}");
    let resume = edict("invert").with("--model", model("tiny-sd1")).with("--output", desk.at("inversion"));
    let resume = resume.with("--resume", desk.at("inversion.part.safetensors"));
    let report = resume.args("--verify --quiet").json();
    assert_eq!(report["verified"], json!({"equal": ELEMENTS, "total": ELEMENTS}));
    assert_eq!(report["network_calls"], 240, "what was inverted is not inverted again");
    assert!(desk.bytes("inversion") == desk.bytes("whole"));
    assert_eq!(desk.names(), ["inversion", "whole"]);
}

/// Whether a name is that of an output that was being written.
fn is_temporary(name: &str) -> bool {
    name.starts_with(".edict-") && name.ends_with(".part")
}

#[test]
fn a_killed_inversion_leaves_the_old_file_or_the_new_one_whole() {
    let desk = Desk::new();
    let call = desk.invert("tiny-sd1", "inversion").args("--steps 20 --strength 1 --guidance 1 --quiet");
    let begun = Instant::now();
    call.run().succeeds();
    let run = begun.elapsed();
    let wanted = desk.bytes("inversion");
    fs::remove_file(desk.at("inversion")).unwrap();
    let check = |old: Option<&[u8]>| {
        let found = desk.at("inversion").exists().then(|| desk.bytes("inversion"));
        let new = found.as_deref() == Some(wanted.as_slice());
        assert!(new || found.as_deref() == old, "{:?}", found.map(|bytes| bytes.len()));
        if new {
            Inversion::read(&desk.at("inversion")).unwrap();
        }
        for name in desk.names() {
            assert!(name == "inversion" || is_temporary(&name), "{name} was left");
        }
        new
    };
    let (mut runs, mut kills, mut whole) = (0, 0, 0);
    // A machine that has less to do than in the first run is done before the signal, which then comes earlier.
    let mut longest = run;
    while kills < 20 {
        assert!(runs < 200, "{kills} of {runs} runs were killed: the others were over");
        let old = (runs % 2 == 0).then_some(b"old".as_slice());
        match old {
            Some(old) => fs::write(desk.at("inversion"), old).unwrap(),
            None => _ = fs::remove_file(desk.at("inversion")),
        }
        let mut child = call.spawn();
        std::thread::sleep(longest.mul_f64(f64::from(runs % 20) / 20.0));
        child.kill().unwrap();
        match child.wait().unwrap().code() {
            None => kills += 1,
            Some(_) => longest = longest.mul_f64(0.9),
        }
        runs += 1;
        whole += usize::from(check(old));
    }
    // In the middle of the write: as soon as a temporary file has content, or the output is another.
    let mut writing = 0;
    for _ in 0..6 {
        fs::write(desk.at("inversion"), "old").unwrap();
        let before = desk.names();
        let mut child = call.spawn();
        let in_the_write = || {
            desk.names().iter().any(|name| {
                is_temporary(name)
                    && !before.contains(name)
                    && fs::metadata(desk.at(name)).is_ok_and(|found| found.len() > 0)
            })
        };
        let caught = loop {
            if in_the_write() {
                break true;
            }
            if desk.bytes("inversion") != b"old" {
                break false;
            }
            assert!(begun.elapsed() < Duration::from_secs(600), "waited in vain");
        };
        child.kill().unwrap();
        child.wait().unwrap();
        writing += usize::from(caught);
        whole += usize::from(check(Some(b"old")));
    }
    // What is left behind hinders nobody, and is nobody's to remove: another program may be writing it.
    let left = desk.names().iter().filter(|name| is_temporary(name)).count();
    let before = desk.names();
    call.run().succeeds();
    assert!(desk.bytes("inversion") == wanted);
    assert!(before.iter().all(|name| desk.names().contains(name)));
    println!("{kills} kills and {writing} in the write; {whole} whole files, {left} temporary files");
}
