// Activation functions on four lanes, in f32. Rust: src/infer/activation.rs, same names.
//
// Arguments of exp and tanh are clamped so that results stay in range in the tails. A shader that says
// "include: activation" has this text appended; the host replaces the line of `activate`.

const EXP_ARGUMENT_MAX: f32 = 80.0;

fn activate(x: vec4<f32>) -> vec4<f32> { return x; }

fn relu(x: vec4<f32>) -> vec4<f32> {
    return max(x, vec4<f32>(0.0));
}

fn clip(x: vec4<f32>, lo: f32, hi: f32) -> vec4<f32> {
    return min(max(x, vec4<f32>(lo)), vec4<f32>(hi));
}

fn leaky_relu(x: vec4<f32>, alpha: f32) -> vec4<f32> {
    return select(alpha * x, x, x >= vec4<f32>(0.0));
}

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(min(-x, vec4<f32>(EXP_ARGUMENT_MAX))));
}

fn silu(x: vec4<f32>) -> vec4<f32> {
    return x * sigmoid(x);
}

fn hard_sigmoid(x: vec4<f32>, alpha: f32, beta: f32) -> vec4<f32> {
    return clamp(alpha * x + beta, vec4<f32>(0.0), vec4<f32>(1.0));
}

fn hard_swish(x: vec4<f32>) -> vec4<f32> {
    return x * clamp(x * (1.0 / 6.0) + 0.5, vec4<f32>(0.0), vec4<f32>(1.0));
}

// With e = exp(x): tanh(ln(1 + e)) = e(e + 2) / (e(e + 2) + 2), which needs one exp and loses no digits.
fn mish(x: vec4<f32>) -> vec4<f32> {
    let e = exp(clamp(x, vec4<f32>(-EXP_ARGUMENT_MAX), vec4<f32>(20.0)));
    let n = e * (e + 2.0);
    return x * (n / (n + 2.0));
}

fn tanh_clamped(x: vec4<f32>) -> vec4<f32> {
    return tanh(clamp(x, vec4<f32>(-15.0), vec4<f32>(15.0)));
}

fn elu(x: vec4<f32>, alpha: f32) -> vec4<f32> {
    return select(alpha * (exp(clamp(x, vec4<f32>(-EXP_ARGUMENT_MAX), vec4<f32>(0.0))) - 1.0), x, x >= vec4<f32>(0.0));
}

fn softplus(x: vec4<f32>) -> vec4<f32> {
    return select(log(1.0 + exp(clamp(x, vec4<f32>(-EXP_ARGUMENT_MAX), vec4<f32>(20.0)))), x, x > vec4<f32>(20.0));
}

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
fn erf(x: vec4<f32>) -> vec4<f32> {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let poly = t * (0.2548296 + t * (-0.28449674 + t * (1.4214137 + t * (-1.453152 + t * 1.0614054))));
    let y = 1.0 - poly * exp(max(-a * a, vec4<f32>(-EXP_ARGUMENT_MAX)));
    return select(y, -y, x < vec4<f32>(0.0));
}

fn gelu(x: vec4<f32>) -> vec4<f32> {
    return 0.5 * x * (1.0 + erf(x * 0.70710678));
}

fn gelu_tanh(x: vec4<f32>) -> vec4<f32> {
    return 0.5 * x * (1.0 + tanh_clamped(0.7978846 * (x + 0.044715 * x * x * x)));
}
