"""Partial transport against bisection, the printed formulas, finite differences and a linear program."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import expit, logsumexp, softmax

from tfdml.ops.optimal_transport import partial_transport, soft_assignment, transported_mass

SMALL_SHAPES = [(1, 1), (1, 6), (3, 1), (4, 7)]


def bisection(costs, ratio, smoothing):
    """Residual and plan in float64, from the scalar equation of the solution solved by bisection."""
    kernel = -smoothing * np.asarray(costs, np.float64)
    log_mass = logsumexp(kernel, axis=-2)
    target = math.log(ratio) - math.log1p(-ratio)
    low = target - log_mass.max(axis=-1, keepdims=True) - 1.0
    high = target - log_mass.min(axis=-1, keepdims=True) + 1.0
    for _ in range(120):
        middle = 0.5 * (low + high)
        too_low = expit(middle + log_mass).mean(axis=-1, keepdims=True) < ratio
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    count = log_mass.shape[-1]
    selected = expit(low + log_mass) / count
    return expit(-low - log_mass) / count, selected[..., None, :] * softmax(kernel, axis=-2)


def iteration_as_printed(costs, ratio, smoothing, iterations):
    """Proposition 5.2.1, line by line."""
    kernel = np.exp(-smoothing * costs)
    count = costs.shape[-1]
    scale = 1.0
    for _ in range(iterations):
        residual = 1.0 / count / (1.0 + scale * kernel.sum(axis=-2))
        scale = ratio / (kernel @ residual).sum()
    return residual, scale * kernel * residual


def gradient_as_printed(residual, plan, residual_gradient, plan_gradient, ratio, smoothing):
    """Proposition 5.2.2, with the inner residual inside Diag and the sums over the prototypes."""
    count = residual.shape[-1]
    q = residual * residual_gradient + (plan * plan_gradient).sum(axis=0)
    eta = (residual * residual_gradient).sum() - count * (q * residual).sum()
    kappa = 1.0 - ratio - count * (residual * residual).sum()
    return -smoothing * plan * (plan_gradient - count * (q - eta * residual / kappa))


def random_costs(kind, shape, generator):
    prototypes, count = shape
    if kind == "uniform":
        return generator.uniform(0.0, 2.0, size=shape)
    if kind == "two values":
        return generator.choice([0.0, 2.0], size=shape)
    if kind == "far apart groups":
        return np.repeat(generator.choice([0.0, 1.0, 2.0], size=(1, count)), prototypes, axis=0)
    if kind == "equal":
        return np.full(shape, 1.25)
    points, anchors = generator.normal(size=(count, 4)), generator.normal(size=(prototypes, 4))
    points[count // 2 :] = 0.0
    points, anchors = (
        vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True)) for vectors in (points, anchors)
    )
    return np.linalg.norm(anchors[:, None] - points[None], axis=-1)


KINDS = ("uniform", "two values", "far apart groups", "equal", "distances")


def solve_with_gradient(costs, *arguments, **options):
    return tuple(value.numpy() for value in _with_gradient(tf.convert_to_tensor(costs), *arguments, **options))


def _with_gradient(costs, residual_gradient, plan_gradient, *arguments, **options):
    with tf.GradientTape() as tape:
        tape.watch(costs)
        residual, plan = partial_transport(costs, *arguments, **options)
        loss = tf.reduce_sum(residual * residual_gradient) + tf.reduce_sum(plan * plan_gradient)
    return residual, plan, tape.gradient(loss, costs)


def check_float32_solution(costs, ratio, smoothing, seed=0):
    costs = np.asarray(costs, np.float32)
    count = costs.shape[-1]
    generator = np.random.default_rng(seed)
    upstream = [generator.normal(size=shape).astype("float32") for shape in (costs[0].shape, costs.shape)]
    residual, plan, gradient = solve_with_gradient(costs, *upstream, ratio, smoothing)
    assert residual.dtype == plan.dtype == gradient.dtype == np.float32
    true_residual, true_plan = bisection(costs, ratio, smoothing)
    np.testing.assert_allclose(residual, true_residual, atol=1e-4 / count, rtol=0)
    np.testing.assert_allclose(plan, true_plan, atol=1e-4 / count, rtol=0)
    np.testing.assert_allclose(plan.sum(axis=0, dtype=float), true_plan.sum(axis=0), atol=1e-4 / count, rtol=0)
    assert abs(plan.sum(dtype=float) - ratio) < 1e-5
    mass = transported_mass(soft_assignment(tf.constant(costs), smoothing, axis=-2)[0], ratio)
    assert abs(mass.selected.numpy().sum(dtype=float) / ratio - 1.0) < 1e-5
    assert (plan >= 0).all() and (residual >= 0).all()
    assert np.isfinite(gradient).all()


@settings(max_examples=40, deadline=None)
@given(
    prototypes=st.integers(1, 128),
    count=st.integers(1, 256),
    ratio=st.floats(0.01, 0.9999),
    log_smoothing=st.floats(math.log(0.01), math.log(200.0)),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**16),
)
def test_random_problems(prototypes, count, ratio, log_smoothing, kind, seed):
    costs = random_costs(kind, (prototypes, count), np.random.default_rng(seed))
    check_float32_solution(costs, ratio, math.exp(log_smoothing), seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (128, 1), (128, 256)])
@pytest.mark.parametrize(("ratio", "smoothing"), [(0.01, 200.0), (0.01, 0.01), (0.999999, 200.0), (0.5, 200.0)])
def test_corners(kind, shape, ratio, smoothing):
    check_float32_solution(random_costs(kind, shape, np.random.default_rng(0)), ratio, smoothing)


def test_costs_of_any_size():
    costs = np.random.default_rng(0).uniform(0, 1e4, size=(3, 20))
    costs[:, :10] += 1e6
    check_float32_solution(costs, 0.3, 10.0)


@pytest.mark.parametrize(("ratio", "compiled"), [(0.2, False), (0.5, True), (0.74, False)])
def test_forbidden_features_take_no_part(ratio, compiled):
    """Costs of any size exclude features; the others are as precise as without them."""
    generator = np.random.default_rng(0)
    costs, upstream = generator.random((2, 16)), generator.normal(size=(2, 16))
    allowed = np.arange(16) < 12
    costs[1, ~allowed] += 0.5
    _, expected, expected_gradient = solve_with_gradient(
        costs[:, allowed], 0.0, 0.75 * upstream[:, allowed], ratio / 0.75, 20.0
    )

    def solve(costs):
        return _with_gradient(costs, 0.0, tf.constant(upstream, tf.float32), ratio, 20.0)

    solve = tf.function(solve, jit_compile=True) if compiled else solve
    for size in (1e3, 1e5, 1e9, 1e30):
        given = np.where(allowed, costs, size + costs).astype("float32")
        residual, plan, gradient = (value.numpy() for value in solve(tf.constant(given)))
        np.testing.assert_allclose(plan[:, allowed], 0.75 * expected, atol=1e-6)
        np.testing.assert_allclose(plan[:, ~allowed], 0.0, atol=1e-6)
        np.testing.assert_allclose(residual[~allowed], 1 / 16, rtol=1e-6)
        np.testing.assert_allclose(gradient[:, allowed], expected_gradient, atol=1e-5)
        np.testing.assert_allclose(gradient[:, ~allowed], 0.0, atol=1e-6)
        assert plan.sum(dtype=float) == pytest.approx(ratio, abs=1e-6)


@pytest.mark.parametrize("outlier", [-1e8, 1e2, 1e4, 1e6, 1e8, 1e30])
def test_one_outlier_costs_the_others_no_digits(outlier):
    costs, upstream = np.random.default_rng(0).random((1, 32)), np.arange(32.0)
    costs[0, 0] = outlier
    others = costs[:, 1:]
    # The ratio that remains for the others if the outlier is included or excluded.
    ratio = (0.5 * 32 - (outlier < 0)) / 31
    _, expected, expected_gradient = solve_with_gradient(others, 0.0, 31 / 32 * upstream[1:], ratio, 20.0)
    _, plan, gradient = solve_with_gradient(costs.astype("float32"), 0.0, upstream.astype("float32"), 0.5, 20.0)
    np.testing.assert_allclose(32 * plan[0, 1:], 31 * expected[0], atol=2e-6)
    assert 32 * plan[0, 0] == pytest.approx(float(outlier < 0), abs=1e-6)
    np.testing.assert_allclose(gradient[0, 1:], expected_gradient[0], atol=2e-6 * np.abs(expected_gradient).max())


@pytest.mark.parametrize(("ratio", "compiled"), [(0.1, False), (0.55, True), (0.95, False)])
def test_costs_of_every_size_at_once(ratio, compiled):
    """40 features: one for each power of ten and 20 close together, with a masked one in between."""
    costs = np.concatenate(
        [-(10.0 ** np.arange(19, 9, -1)), np.linspace(0.0, 0.5, 20), 10.0 ** np.arange(20, 30), [5e9]]
    )
    mask = np.arange(41) < 40

    def solve(costs):
        return partial_transport(costs, ratio, 20.0, mask=mask)

    solve = tf.function(solve, jit_compile=True) if compiled else solve
    found = solve(tf.constant(costs[None], tf.float32)).plan[0].numpy()
    if ratio == 0.55:  # The ten smallest and 12 of the 20.
        expected = np.r_[np.ones(10), 20 * partial_transport(costs[None, 10:30], 0.6, 20.0).plan[0], np.zeros(11)]
        np.testing.assert_allclose(40 * found, expected, atol=2e-6)
    else:  # Whole features.
        whole = round(40 * ratio)
        np.testing.assert_allclose(40 * found, np.arange(41) < whole, atol=1e-5)


def test_huge_costs_that_differ_by_their_last_bits():
    costs = np.nextafter(np.full((1, 9), 1e30, "float32"), np.inf) * np.array([[1, 1, 1, 0.5, 0.5, 0.5, 1, 1, 1]], "f")
    costs[0, 4] = np.nextafter(costs[0, 4], np.float32(np.inf))
    residual, _ = partial_transport(costs, 2 / 9, 20.0)
    np.testing.assert_allclose(9 * residual, [1, 1, 1, 0, 1, 0, 1, 1, 1], atol=2e-6)


def test_more_than_what_is_allowed_goes_to_the_forbidden_alike():
    costs = np.where(np.arange(16) < 12, 0.5, 1e9)[None].astype("float32")
    residual, plan = partial_transport(costs, 0.9, 20.0)
    np.testing.assert_allclose(residual[12:], 0.1 / 4, rtol=1e-5)
    np.testing.assert_allclose(plan[0, :12], 1 / 16, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cheap", [1, 8, 15])
@pytest.mark.parametrize("excess", [-0.01, -1e-6, 0.0, 1e-6, 0.01])
def test_ratio_between_groups_that_lie_far_apart(cheap, excess, dtype):
    """Some features are free, the others too expensive: on the plateau between, Newton steps leave the bracket."""
    ratio = cheap / 16 + excess
    costs = np.repeat([[0.0] * cheap + [2.0] * (16 - cheap)], 2, axis=0).astype(dtype)
    residual, _ = partial_transport(costs, ratio, 200.0)
    np.testing.assert_allclose(residual[:cheap], max(0.0, -excess) / cheap, atol=1e-7)
    np.testing.assert_allclose(residual[cheap:], 1 / 16 - max(0.0, excess) / (16 - cheap), atol=1e-7)


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.99])
@pytest.mark.parametrize("cost", [0.0, 1.95, 8284.2])
def test_equal_features_share_alike(cost, ratio):
    """The solution is at the end of the bracket, where large costs leave few digits."""
    residual, plan = partial_transport(np.full((4, 40), cost, "float32"), ratio, 200.0)
    np.testing.assert_allclose(residual, (1 - ratio) / 40, rtol=2e-6)
    np.testing.assert_allclose(plan, ratio / 160, rtol=2e-6)


def test_a_result_does_not_depend_on_the_batch():
    generator = np.random.default_rng(0)
    easy, hard = generator.uniform(size=(3, 9)), generator.choice([0.0, 2.0], size=(3, 9))
    together = transported_mass(soft_assignment(tf.constant(np.stack([easy, hard])), 150.0, -2)[0], 0.4)
    alone = transported_mass(soft_assignment(tf.constant(easy), 150.0, -2)[0], 0.4)
    np.testing.assert_allclose(together.selected[0], alone.selected, rtol=1e-15)


def test_not_a_number_stays_visible_and_ends():
    costs = np.random.default_rng(0).uniform(size=(2, 3, 5))
    costs[0, 1, 2] = np.nan
    residual, plan = partial_transport(costs, 0.4, 5.0)
    assert np.isnan(residual[0]).all() and np.isnan(plan[0]).any()
    np.testing.assert_allclose(residual[1], bisection(costs[1], 0.4, 5.0)[0], atol=1e-12)


@pytest.mark.parametrize("shape", SMALL_SHAPES)
@pytest.mark.parametrize("solver", ["newton", "bregman"])
def test_whole_mass(shape, solver):
    generator = np.random.default_rng(0)
    costs, plan_gradient = generator.uniform(size=shape), generator.normal(size=shape)
    residual, plan, gradient = solve_with_gradient(
        costs, generator.normal(size=shape[1]), plan_gradient, 1.0, 3.0, solver
    )
    np.testing.assert_array_equal(residual, np.zeros(shape[1]))
    np.testing.assert_allclose(plan, softmax(-3.0 * costs, axis=0) / shape[1], rtol=1e-12)
    share = softmax(-3.0 * costs, axis=0)
    expected = -3.0 / shape[1] * share * (plan_gradient - (share * plan_gradient).sum(axis=0))
    np.testing.assert_allclose(gradient, expected, atol=1e-13)


@pytest.mark.parametrize("ratio", [0.2, 0.55, 1.0])
def test_approaches_the_linear_program(ratio):
    prototypes, count, smoothing = 3, 10, 1e4
    costs = np.random.default_rng(0).uniform(size=(prototypes, count))
    # Variables: the residual, then the rows of the plan.
    marginals = np.concatenate([np.eye(count)] * (prototypes + 1), axis=1)
    total = np.concatenate([np.zeros(count), np.ones(prototypes * count)])
    program = linprog(
        np.concatenate([np.zeros(count), costs.ravel()]),
        A_eq=np.vstack([marginals, total]),
        b_eq=np.concatenate([np.full(count, 1.0 / count), [ratio]]),
    )
    assert program.status == 0
    _, plan = partial_transport(costs, ratio, smoothing)
    # The two can only differ by the entropy term, which lies between -log((m + 1) n) / smoothing and 0.
    excess = float(tf.reduce_sum(plan * costs)) - program.fun
    assert -1e-9 < excess < math.log((prototypes + 1) * count) / smoothing


@pytest.mark.parametrize(
    ("solver", "shape", "ratio", "smoothing"),
    [
        *(("newton", (4, 7), *numbers) for numbers in ((0.05, 2.0), (0.3, 5.0), (0.9, 0.5), (0.97, 8.0))),
        *(("newton", shape, 0.3, 5.0) for shape in SMALL_SHAPES[:-1]),
        ("bregman", (4, 7), 0.3, 5.0),
        ("bregman", (4, 7), 0.9, 0.5),
    ],
)
def test_gradient_against_finite_differences_and_the_printed_formula(solver, shape, ratio, smoothing):
    generator = np.random.default_rng(0)
    costs = generator.uniform(0.1, 2.0, size=shape)
    upstream = generator.normal(size=shape[1]), generator.normal(size=shape)

    def loss(costs):
        residual, plan = bisection(costs, ratio, smoothing)
        return (residual * upstream[0]).sum() + (plan * upstream[1]).sum()

    options = {"solver": solver, "iterations": 300} if solver == "bregman" else {}
    residual, plan, gradient = solve_with_gradient(costs, *upstream, ratio, smoothing, **options)
    differences = np.zeros(shape)
    for index in np.ndindex(*shape):
        step = np.zeros(shape)
        step[index] = 1e-5
        differences[index] = (loss(costs + step) - loss(costs - step)) / 2e-5
    np.testing.assert_allclose(gradient, differences, atol=1e-6, rtol=0)
    if shape[1] > 1:  # For one feature the printed formula divides 0 by 0.
        printed = gradient_as_printed(residual, plan, *upstream, ratio, smoothing)
        np.testing.assert_allclose(gradient, printed, atol=1e-10)


@pytest.mark.parametrize("iterations", [1, 2, 3, 30])
def test_bregman_is_the_printed_iteration(iterations):
    costs = np.random.default_rng(0).uniform(size=(4, 9))
    expected = iteration_as_printed(costs, 0.3, 5.0, iterations)
    for gradient in ("implicit", "unrolled"):
        found = partial_transport(costs, 0.3, 5.0, solver="bregman", iterations=iterations, gradient=gradient)
        for got, wanted in zip(found, expected):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_unrolled_gradient_differentiates_the_iteration():
    generator = np.random.default_rng(0)
    costs, upstream = (
        generator.uniform(size=(3, 5)),
        (generator.normal(size=5), generator.normal(size=(3, 5))),
    )

    def loss(costs):
        return sum((got * sent).sum() for got, sent in zip(iteration_as_printed(costs, 0.3, 5.0, 3), upstream))

    options = {"solver": "bregman", "gradient": "unrolled", "iterations": 3}
    _, _, gradient = solve_with_gradient(costs, *upstream, 0.3, 5.0, **options)
    for index in np.ndindex(3, 5):
        step = np.zeros((3, 5))
        step[index] = 1e-5
        assert gradient[index] == pytest.approx((loss(costs + step) - loss(costs - step)) / 2e-5, abs=1e-8)


def test_gradients_agree_when_converged():
    generator = np.random.default_rng(0)
    costs = generator.uniform(size=(2, 4, 9))
    upstream = generator.normal(size=(2, 9)), generator.normal(size=(2, 4, 9))
    newton = solve_with_gradient(costs, *upstream, 0.3, 5.0)
    for gradient in ("implicit", "unrolled"):
        found = solve_with_gradient(costs, *upstream, 0.3, 5.0, solver="bregman", iterations=300, gradient=gradient)
        for got, wanted in zip(found, newton):
            np.testing.assert_allclose(got, wanted, atol=1e-10)


def test_bregman_does_not_underflow():
    costs = np.random.default_rng(0).uniform(1.5, 2.0, size=(4, 8)).astype("float32")
    found = solve_with_gradient(costs, 1.0, 0.0, 0.3, 200.0, solver="bregman", iterations=100, gradient="unrolled")
    assert all(np.isfinite(values).all() for values in found)
    assert found[1].sum() == pytest.approx(0.3, abs=1e-5)


def test_second_derivative():
    generator = np.random.default_rng(0)
    costs, direction = tf.constant(generator.uniform(size=(3, 5))), generator.normal(size=(3, 5))

    def slope(costs):
        with tf.GradientTape() as tape:
            tape.watch(costs)
            loss = tf.reduce_sum(partial_transport(costs, 0.3, 5.0).residual ** 2)
        return tf.reduce_sum(tape.gradient(loss, costs) * direction)

    with tf.GradientTape() as tape:
        tape.watch(costs)
        value = slope(costs)
    curvature = tf.reduce_sum(tape.gradient(value, costs) * direction)
    expected = (slope(costs + 1e-5 * direction) - slope(costs - 1e-5 * direction)) / 2e-5
    assert float(curvature) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("solver", ["newton", "bregman"])
def test_masked_features_take_no_part(solver):
    generator = np.random.default_rng(0)
    costs = generator.uniform(size=(3, 4, 7))
    mask = np.array([[True] * 7, [True, False, True, True, False, False, True], [False] * 7])
    costs[1, :, 1], costs[1, :, 4] = np.nan, np.inf
    upstream = generator.normal(size=(3, 7)), generator.normal(size=(3, 4, 7))
    residual, plan, gradient = solve_with_gradient(costs, *upstream, 0.3, 5.0, solver, mask=mask)
    for row in range(2):
        kept = mask[row]
        expected = solve_with_gradient(
            costs[row][:, kept], upstream[0][row][kept], upstream[1][row][:, kept], 0.3, 5.0, solver
        )
        for got, wanted in zip((residual[row][kept], plan[row][:, kept], gradient[row][:, kept]), expected):
            np.testing.assert_allclose(got, wanted, atol=1e-12)
        for left_out in (residual[row][~kept], plan[row][:, ~kept], gradient[row][:, ~kept]):
            np.testing.assert_array_equal(left_out, np.zeros_like(left_out))
    for of_empty in (residual[2], plan[2], gradient[2]):
        np.testing.assert_array_equal(of_empty, np.zeros_like(of_empty))


@pytest.mark.parametrize("options", [{"solver": "bregman", "gradient": "unrolled"}, {"ratio": 1.0}])
def test_all_masked_with_other_options(options):
    options = {"ratio": 0.3, "smoothing": 5.0, "iterations": 5, **options}
    costs = np.random.default_rng(0).uniform(size=(2, 3, 4))
    mask = np.array([[True, True, False, True], [False] * 4])
    residual, plan, gradient = solve_with_gradient(costs, 1.0, 1.0, mask=mask, **options)
    assert plan[0].sum() == pytest.approx(options["ratio"])
    for values in (residual[1], plan[1], gradient[1]):
        np.testing.assert_array_equal(values, np.zeros_like(values))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("options", "shape", "dtype"),
    [
        ({}, (4, 7), "float32"),
        ({"solver": "bregman"}, (2, 4, 7), "float64"),
        ({"solver": "bregman", "gradient": "unrolled"}, (2, 3, 4, 7), "float32"),
    ],
)
def test_eager_graph_and_compiled_agree(options, shape, dtype):
    generator = np.random.default_rng(0)
    costs = tf.constant(generator.uniform(size=shape), dtype)
    upstream = [tf.constant(generator.normal(size=size), dtype) for size in (shape[:-2] + shape[-1:], shape)]
    options = {**options, "iterations": 8}

    def run(costs):
        with tf.GradientTape() as tape:
            tape.watch(costs)
            residual, plan = partial_transport(costs, 0.3, 5.0, **options)
            loss = tf.reduce_sum(residual * upstream[0]) + tf.reduce_sum(plan * upstream[1])
        return residual, plan, tape.gradient(loss, costs)

    expected = run(costs)
    unknown = [tf.TensorSpec((None,) * len(shape), dtype)]
    for function in (tf.function(run, input_signature=unknown), tf.function(run, jit_compile=True)):
        for got, wanted in zip(function(costs), expected):
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_unknown_mask_size_in_a_graph():
    signature = [tf.TensorSpec((None, 3, None), tf.float64), tf.TensorSpec((None, None), tf.bool)]
    function = tf.function(lambda costs, mask: partial_transport(costs, 0.3, 5.0, mask=mask), input_signature=signature)
    costs, mask = np.random.default_rng(0).uniform(size=(2, 3, 5)), np.ones((2, 5), bool)
    np.testing.assert_allclose(function(costs, mask).residual, bisection(costs, 0.3, 5.0)[0], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    costs = tf.cast(np.random.default_rng(0).uniform(0, 2, size=(4, 50)), dtype)
    residual, plan = partial_transport(costs, 0.3, 200.0)
    assert residual.dtype == plan.dtype == tf.float32
    np.testing.assert_allclose(residual, bisection(tf.cast(costs, tf.float64), 0.3, 200.0)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "Received: ratio=0.0. Expected: 0 < ratio <= 1"),
        ({"ratio": 1.3}, "Received: ratio=1.3"),
        ({"ratio": -0.1}, "Received: ratio=-0.1"),
        ({"ratio": float("nan")}, "Received: ratio=nan"),
        ({"ratio": "half"}, "Received: ratio='half'"),
        ({"smoothing": 0.0}, "Received: smoothing=0.0. Expected: 0 < smoothing"),
        ({"smoothing": -5.0}, "Received: smoothing=-5.0"),
        ({"smoothing": float("inf")}, "Received: smoothing=inf"),
        ({"smoothing": None}, "Received: smoothing=None"),
        ({"solver": "sinkhorn"}, "Received: solver='sinkhorn'. Expected: one of"),
        ({"gradient": "none"}, "Received: gradient='none'. Expected: one of"),
        ({"gradient": "unrolled"}, "no unrolled gradient"),
        ({"iterations": 0}, "Received: iterations=0"),
        ({"iterations": 2.5}, "Received: iterations=2.5"),
        ({"iterations": "ten"}, "Received: iterations='ten'"),
        ({"costs": np.ones(4)}, r"Received: costs of shape \(4,\)"),
        (
            {"mask": np.ones(3, bool)},
            r"Received: mask of shape \(3,\) and costs of shape \(3, 4\). Expected: \(4,\)",
        ),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        partial_transport(**{"costs": np.ones((3, 4)), "ratio": 0.3, "smoothing": 5.0, **options})


@pytest.mark.parametrize("solver", ["newton", "bregman"])
def test_an_infinite_cost_forbids_a_pair(solver):
    costs = np.random.default_rng(0).random((3, 8)).astype("float32")
    forbidden, large = costs.copy(), costs.copy()
    forbidden[0, 3], large[0, 3] = np.inf, 1e6
    forbidden = tf.constant(forbidden)
    with tf.GradientTape() as tape:
        tape.watch(forbidden)
        solution = partial_transport(forbidden, 0.5, 20.0, solver=solver)
        value = tf.reduce_sum(solution.residual * np.arange(8, dtype="float32"))
    expected = partial_transport(large, 0.5, 20.0, solver=solver)
    np.testing.assert_allclose(solution.residual, expected.residual, atol=1e-7)
    np.testing.assert_allclose(solution.plan, expected.plan, atol=1e-7)
    assert np.isfinite(tape.gradient(value, forbidden)).all()
