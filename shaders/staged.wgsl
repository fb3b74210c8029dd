// Two superblocks' inputs, in turns. Lanes read vectors four apart at a time:
// these lie in all banks of the memory in this order, and so do neighbours.
var<workgroup> staged: array<vec4<f32>, 512>;

fn swizzled(quad: u32) -> u32 { return quad ^ ((quad >> 3u) & 3u); }
