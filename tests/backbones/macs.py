"""MACs of a stage on a square map, written down from the papers' definitions. Nothing here looks at the code."""


def macs(spec, side):
    """Of `spec`'s stage on a map of side x side pixels."""
    return FORMULAS[spec.block](spec, side)


def fitting(side, step):
    return -(-side // step) * step


def hidden(spec):
    return int(spec.width * spec.expansion)


def squeeze(spec, channels):
    """Two matrices on one pixel."""
    return 2 * channels * int(spec.width * (spec.squeeze or 0))


def kernel(spec, default):
    """Places of a kernel."""
    return (spec.kernel or default) ** 2


def c2f(spec, side):
    c, h = spec.width, hidden(spec)
    return side**2 * (c * 2 * h + spec.depth * 2 * kernel(spec, 3) * h * h + (2 + spec.depth) * h * c)


def light_c2f(spec, side):
    """Two pairs of a pointwise and a depthwise convolution in each bottleneck."""
    c, h = spec.width, hidden(spec)
    return side**2 * (c * 2 * h + spec.depth * 2 * (h * h + kernel(spec, 5) * h) + (2 + spec.depth) * h * c)


def basic(spec, side):
    return spec.depth * side**2 * 2 * 9 * spec.width * hidden(spec)


def bottleneck(spec, side):
    c, h = spec.width, hidden(spec)
    return spec.depth * (side**2 * (2 * c * h + 9 * h * (spec.group_width or h)) + squeeze(spec, h))


def mbconv(spec, side):
    c, h = spec.width, hidden(spec)
    return spec.depth * (side**2 * (2 * c * h + kernel(spec, 3) * h) + squeeze(spec, h))


def fused_mbconv(spec, side):
    return spec.depth * side**2 * (9 + 1) * spec.width * hidden(spec)


def convnext(spec, side):
    return spec.depth * side**2 * (kernel(spec, 7) * spec.width + 2 * spec.width * hidden(spec))


def repdw(spec, side):
    """Both depthwise kernels of the training form, one of 1 x 1; every other block has squeeze-excitation."""
    c = spec.width
    squeezes = (spec.depth + 1) // 2 * squeeze(spec, c)
    return spec.depth * side**2 * ((kernel(spec, 3) + 1) * c + 2 * c * hidden(spec)) + squeezes


def pool(spec, side):
    return spec.depth * side**2 * 2 * spec.width * hidden(spec)


def layer(spec, groups, tokens):
    """Attention (qkv, two products, projection) and MLP of `groups` groups of `tokens` tokens."""
    c = spec.width
    mlp = 3 * (hidden(spec) // 2 // 64 * 64) if spec.mlp == "swiglu" else 2 * hidden(spec)
    return groups * tokens * (4 * c * c + 2 * tokens * c + c * mlp)


def pre_conv(spec, side):
    return side**2 * {"none": 0, "depthwise": 9 * spec.width, "dense": 9 * spec.width**2}[spec.pre_conv]


def attention(spec, side):
    return spec.depth * (pre_conv(spec, side) + layer(spec, 1, side**2))


def position_mlp(spec, window):
    """Of SwinV2: offsets (2) -> cpb_hidden -> heads, for every offset."""
    return (2 * window - 1) ** 2 * spec.cpb_hidden * (2 + spec.heads)


def window(spec, side):
    w, side = spec.window, fitting(side, spec.window)
    block = layer(spec, (side // w) ** 2, w * w) + position_mlp(spec, w)
    return spec.depth * (pre_conv(spec, side) + block)


def mr_window(spec, side):
    """A block at half the resolution, then one at full."""
    w, c = spec.window, spec.width
    side = fitting(side, 2 * w)
    half = side // 2
    # conv: 2x2 kernels that tile the map, and as many products upwards. pool: a 1x1 convolution either way.
    resampling = half**2 * c * c * {"conv": 4 + 4, "pool": 1 + 1}[spec.subsampling]
    coarse = layer(spec, (half // w) ** 2, w * w) + position_mlp(spec, w)
    fine = layer(spec, (side // w) ** 2, w * w) + position_mlp(spec, w)
    return spec.depth * (resampling + coarse + pre_conv(spec, side) + fine)


def linear_attention(spec, side):
    """Q, K, V at two scales; K^T V, Q times it, and Q times the sum of K; projection; MBConv."""
    c, width = spec.width, spec.width // spec.heads
    project = c * 3 * c + 2 * c * c
    aggregate = 25 * 3 * c + 3 * c * width
    products = 2 * spec.heads * (2 * width * width + width)
    return spec.depth * side**2 * (project + aggregate + products) + mbconv(spec, side)


def single_head(spec, side):
    """Depthwise 3x3; queries, keys, values and two products of the attended channels; projection; MLP."""
    c, k, n = spec.width, spec.key_width, side**2
    attended = max(1, round(c / 4.67 / 8)) * 8
    attention = attended * (2 * k + attended) + n * (k + attended) + c * c
    return spec.depth * n * (9 * c + attention + 2 * c * hidden(spec))


def bn_attention(spec, side):
    """Queries, keys, values of twice the keys' width; two products; projection; MLP."""
    c, k, n = spec.width, spec.heads * spec.key_width, side**2
    attention = c * 4 * k + n * 3 * k + 2 * k * c
    return spec.depth * n * (attention + 2 * c * hidden(spec))


def swin(spec, side):
    w = spec.window
    return spec.depth * layer(spec, (fitting(side, w) // w) ** 2, w * w)


def maxvit(spec, side):
    """A grid of w x w tokens partitions the map into as many groups as windows of w x w do."""
    return mbconv(spec, side) + 2 * swin(spec, side)


def carrier(spec, side):
    """Attention among the 2 x 2 carriers of all windows, then in each window with its four; two place embeddings."""
    w, c, side = spec.window, spec.width, fitting(side, spec.window)
    windows = (side // w) ** 2
    places = (w * w + 4 * windows) * spec.cpb_hidden * (2 + c)
    layers = layer(spec, 1, 4 * windows) + layer(spec, windows, w * w + 4) + position_mlp(spec, w)
    return side**2 * 9 * c + places + spec.depth * layers


def vit(spec, side):
    """As few windows as possible, and as small as these allow; registers join the global layers only."""
    across = spec.depth if spec.window is None else spec.depth // (spec.global_every or spec.depth + 1)
    whole = across * layer(spec, 1, side**2 + (spec.registers or 0))
    places = 9 * spec.width * side**2 if spec.positions == "conditional" else 0
    if across == spec.depth:
        return places + whole
    windows = -(-side // spec.window)
    return places + whole + (spec.depth - across) * layer(spec, windows**2, (-(-side // windows)) ** 2)


FORMULAS = {
    "c2f": c2f,
    "light_c2f": light_c2f,
    "basic": basic,
    "bottleneck": bottleneck,
    "mbconv": mbconv,
    "fused_mbconv": fused_mbconv,
    "convnext": convnext,
    "repdw": repdw,
    "pool": pool,
    "attention": attention,
    "window": window,
    "mr_window": mr_window,
    "linear_attention": linear_attention,
    "single_head": single_head,
    "bn_attention": bn_attention,
    "swin": swin,
    "maxvit": maxvit,
    "carrier": carrier,
    "vit": vit,
}
