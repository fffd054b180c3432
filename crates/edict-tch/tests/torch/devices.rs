//! Names of devices.

use edict_stable_diffusion::{Backend, DType};
use edict_tch::{DeviceSpec, TchBackend, TchError};

#[test]
fn reads_device_names() {
    for (name, device) in
        [("cpu", DeviceSpec::Cpu), ("cuda:0", DeviceSpec::Cuda(0)), ("cuda:12", DeviceSpec::Cuda(12))]
    {
        assert_eq!(name.parse::<DeviceSpec>().unwrap(), device);
        assert_eq!(device.to_string(), name);
    }
    for name in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu:0", "metal"] {
        let error = name.parse::<DeviceSpec>().unwrap_err();
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
fn says_what_a_gpu_that_is_not_there_needs() {
    let error = TchBackend::new(DeviceSpec::Cuda(99), DType::F32).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("device `cuda:99` cannot be used: ") && !text.contains('\n'), "{text}");
    match error {
        TchError::CudaNotLoaded { reason, .. } => {
            assert!(text.contains("LIBTORCH") && text.contains(&reason), "{text}");
        }
        TchError::DeviceUnavailable { found, .. } => {
            assert!(found < 99 && text.contains("use `cpu`"), "{text}");
        }
        other => panic!("{other}"),
    }
    // What was asked for in vain leaves the processor usable.
    assert_eq!(TchBackend::new(DeviceSpec::Cpu, DType::F16).unwrap().dtype(), DType::F16);
}
