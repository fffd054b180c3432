//! Names of devices.

use edict_candle::{CandleBackend, DeviceSpec};
use edict_stable_diffusion::{Backend, DType};

#[test]
fn reads_device_names() {
    for (name, device) in [
        ("cpu", DeviceSpec::Cpu),
        ("cuda:0", DeviceSpec::Cuda(0)),
        ("cuda:12", DeviceSpec::Cuda(12)),
        ("metal", DeviceSpec::Metal),
    ] {
        assert_eq!(name.parse::<DeviceSpec>().unwrap(), device);
        assert_eq!(device.to_string(), name);
    }
    for name in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu:0", "metal:0"] {
        let error = name.parse::<DeviceSpec>().unwrap_err();
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
#[cfg(not(any(feature = "cuda", feature = "metal")))]
fn says_which_feature_a_device_needs() {
    let error = CandleBackend::new(DeviceSpec::Cuda(0), DType::F32).unwrap_err();
    assert_eq!(error.to_string(), "this build has no CUDA support: build with `--features cuda`");
    let error = CandleBackend::new(DeviceSpec::Metal, DType::F32).unwrap_err();
    assert_eq!(error.to_string(), "this build has no Metal support: build with `--features metal`");
    assert_eq!(CandleBackend::new(DeviceSpec::Cpu, DType::F16).unwrap().dtype(), DType::F16);
}
