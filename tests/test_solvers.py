"""Every solver against a dense float64 solve, and against every other."""

from typing import Any

import pytest
import torch
from dense import FAMILIES, Dense, batched, build, examples, relative
from torch import Tensor

from unlearn_lib.curvature import EmpiricalFisher, GaussNewton, Hessian, NotConvergedError, Reason
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.solvers.cg import levenberg_marquardt
from unlearn_lib.curvature.vector import Vector, flatten, unflatten
from unlearn_lib.errors import InputError, NumericsError

DAMPINGS = (1.0, 1e-2, 1e-4)
EXACT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("woodbury", {}), ("woodbury", {"keep": "gradients"}), ("woodbury", {"keep": "nothing", "passes": 2}),
    ("recursion", {}), ("cg", {}), ("dense", {}),
)  # fmt: skip


class Matrix(Operator):
    """A given symmetric matrix as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.params = {"x": torch.zeros(len(matrix), dtype=matrix.dtype)}

    def mv(self, v: Vector) -> Vector:
        return {"x": self.matrix @ v["x"]}


def draw(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spectrum(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    Q, _ = torch.linalg.qr(draw(len(values) ** 2, seed).view(len(values), -1))
    return (Q * values) @ Q.T


def power_of(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


@pytest.fixture(scope="module")
def fisher() -> tuple[EmpiricalFisher, Tensor]:
    model, sequences = build("opt"), examples()
    return EmpiricalFisher(model, batched(sequences, (3, 2))), Dense(model, sequences).fisher()


@pytest.mark.parametrize("damping", DAMPINGS)
def test_all_solvers_agree(fisher: tuple[EmpiricalFisher, Tensor], damping: float) -> None:
    F, dense = fisher
    damped, v = dense + damping * torch.eye(F.size, dtype=torch.float64), draw(F.size)
    expected = torch.linalg.solve(damped, v)
    for solver, options in EXACT:
        solution = F.solve(v, damping, solver, **options)
        assert relative(solution.value, expected) < 1e-9 / damping, (solver, options)
        # the residual that is reported is the true one
        true = float((v - damped @ solution.value).norm() / v.norm())
        assert solution.residual == pytest.approx(true, rel=0.5, abs=2e-10), (solver, options)
        assert solution.converged
        assert solution.reason is Reason.CONVERGED
        assert solution.operator == f"EmpiricalFisher + {damping:g} I"


@pytest.mark.parametrize("family", FAMILIES)
def test_woodbury_on_every_family(family: str) -> None:
    model, sequences = build(family), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)))
    v = draw(F.size)
    expected = torch.linalg.solve(Dense(model, sequences).fisher() + 0.01 * torch.eye(F.size, dtype=torch.float64), v)
    solution = F.solve(unflatten(v, F.params), 0.01)  # woodbury is the Fisher's default
    assert isinstance(solution.value, dict)
    assert relative(flatten(solution.value), expected) < 1e-8


@pytest.mark.parametrize("width", [1, 5, 1000])
@pytest.mark.parametrize("solver", ["block", "recursion"])
def test_blocks(fisher: tuple[EmpiricalFisher, Tensor], solver: str, width: int) -> None:
    F, dense = fisher
    blocks = torch.zeros_like(dense)
    first = 0
    for p in F.params.values():
        for start in range(first, first + p.numel(), width):
            stop = min(start + width, first + p.numel())
            blocks[start:stop, start:stop] = dense[start:stop, start:stop]
        first += p.numel()
    v = draw(F.size)
    solution = F.solve(v, 1e-3, solver, width=width)
    assert relative(solution.value, torch.linalg.solve(blocks + 1e-3 * torch.eye(F.size, dtype=torch.float64), v)) < 1e-8
    assert solution.operator == f"block diagonal (width {width}) of EmpiricalFisher + 0.001 I"


def test_block_and_diagonal_of_any_operator(fisher: tuple[EmpiricalFisher, Tensor]) -> None:
    F, dense = fisher
    v, eye = draw(F.size), torch.eye(F.size, dtype=torch.float64)
    assert relative(F.solve(v, 1e-3, "diagonal").value, v / (dense.diagonal() + 1e-3)) < 1e-9
    M = spectrum(torch.linspace(0.1, 2, 12, dtype=torch.float64))
    blocks = torch.block_diag(M[:5, :5], M[5:10, 5:10], M[10:, 10:])
    x = Matrix(M).solve(v[:12], 0.1, "block", width=5).value
    assert relative(x, torch.linalg.solve(blocks + 0.1 * eye[:12, :12], v[:12])) < 1e-12
    assert relative(Matrix(M).solve(v[:12], 0.1, "diagonal").value, v[:12] / (M.diagonal() + 0.1)) < 1e-12


@pytest.mark.parametrize("exponent", [-0.5, -0.25, 0.5, -1.0, 1.0])
@pytest.mark.parametrize("damping", [1.0, 1e-3])
def test_powers(fisher: tuple[EmpiricalFisher, Tensor], exponent: float, damping: float) -> None:
    F, dense = fisher
    v, eye = draw(F.size), torch.eye(F.size, dtype=torch.float64)
    expected = power_of(dense + damping * eye, exponent) @ v
    for solver in ("woodbury", "dense"):
        assert relative(F.solve(v, damping, solver, exponent=exponent).value, expected) < 1e-7
    whole = F.solve(v, damping, "block", width=F.size, exponent=exponent).value  # blocks as wide as each tensor
    first, parts = 0, []
    for p in F.params.values():
        part = slice(first, first + p.numel())
        parts.append(power_of(dense[part, part] + damping * eye[part, part], exponent) @ v[part])
        first += p.numel()
    assert relative(whole, torch.cat(parts)) < 1e-7


def test_small_powers_of_small_eigenvalues_do_not_cancel() -> None:
    """The coefficient of a vanishing eigenvalue is p lambda^(p-1) / n."""
    from unlearn_lib.curvature.solvers.woodbury import _coefficients

    s = torch.tensor([0.0, 1e-18, 1e-9, 1.0], dtype=torch.float64)
    found = _coefficients(s, 0.1, -0.25)
    assert found[0] == pytest.approx(-0.25 * 0.1**-1.25 / 4)
    assert found[1] == pytest.approx(float(found[0]), rel=1e-12)
    assert found[3] == pytest.approx((1 / 4 + 0.1) ** -0.25 - 0.1**-0.25)


def test_float32_is_verified_and_refined() -> None:
    model, sequences = build("gpt2", dtype=torch.float32), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)))
    v = flatten(F.adjoint(torch.full((5,), 0.2)))  # in the span of the gradients, where rounding hurts most
    loose = F.solve(v, 1e-3, "woodbury", tolerance=0.1)
    tight = F.solve(v, 1e-3, "woodbury", tolerance=loose.residual / 2, throw=False)
    assert loose.iterations == 0
    assert tight.iterations == 1
    assert tight.residual < loose.residual
    assert tight.gradient_evaluations > loose.gradient_evaluations


def test_cg_statistics_and_steps() -> None:
    """Three different eigenvalues: three steps, whatever the size."""
    M = spectrum(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64).repeat(10))
    v = draw(30)
    solution = Matrix(M).solve(v, 0.0, "cg")
    assert solution.iterations == 3
    assert relative(solution.value, torch.linalg.solve(M, v)) < 1e-9
    assert solution.gradient_evaluations == 0  # no sequences
    near = torch.linalg.solve(M, v)
    before = near.clone()
    assert Matrix(M).solve(v, 0.0, "cg", start={"x": near}, tolerance=1e-6).iterations == 0
    assert Matrix(M).solve(v, 0.0, "cg", start=near + 0.1).iterations <= 3
    assert torch.equal(near, before)


def test_preconditioner() -> None:
    values = torch.logspace(-4, 2, 60, dtype=torch.float64)
    M, v = spectrum(values), draw(60)
    plain = Matrix(M).solve(v, 1e-4, "cg", tolerance=1e-6, max_steps=1000)
    helped = Matrix(M).solve(v, 1e-4, "cg", tolerance=1e-8, preconditioner=Matrix(spectrum(1 / (values * 1.3 + 1e-4))))
    assert helped.iterations < plain.iterations / 4
    assert relative(helped.value, torch.linalg.solve(M + 1e-4 * torch.eye(60, dtype=torch.float64), v)) < 1e-4


def test_the_fishers_inverse_preconditions_itself(fisher: tuple[EmpiricalFisher, Tensor]) -> None:
    F, _ = fisher
    v = draw(F.size)
    solution = F.solve(v, 1e-3, "cg", preconditioner=F.inverse(1e-3, "woodbury", keep="gradients"))
    assert solution.iterations <= 2


def test_negative_curvature_is_an_error_with_the_remedy() -> None:
    model, sequences = build("opt"), examples()
    H = Hessian(model, batched(sequences, (3, 2)))
    v = draw(H.size)
    with pytest.raises(NotConvergedError, match=r"negative curvature.*raise the damping.*or use GaussNewton") as caught:
        H.solve(v, 1e-2)
    assert caught.value.solution.reason is Reason.NEGATIVE_CURVATURE
    assert not caught.value.solution.converged
    enough = H.solve(v, 10.0)
    assert (
        relative(
            enough.value, torch.linalg.solve(Dense(model, sequences).hessian() + 10 * torch.eye(H.size, dtype=torch.float64), v)
        )
        < 1e-8
    )
    assert GaussNewton(model, batched(sequences, (3, 2))).solve(v, 1e-1).converged


def test_other_reasons() -> None:
    M, v = spectrum(torch.logspace(-6, 2, 40, dtype=torch.float64)), draw(40)
    with pytest.raises(NotConvergedError, match="step limit was reached"):
        Matrix(M).solve(v, 0.0, "cg", max_steps=5)
    short = Matrix(M).solve(v, 0.0, "cg", max_steps=5, throw=False)
    assert (short.reason, short.iterations, short.converged) == (Reason.STEP_LIMIT, 5, False)
    assert short.residual == pytest.approx(float((v - M @ short.value).norm() / v.norm()))
    stuck = Matrix(M.float()).solve(v.float(), 0.0, "cg", tolerance=1e-9, max_steps=100_000, throw=False)
    assert stuck.reason is Reason.STAGNATION
    assert stuck.iterations < 5000
    with pytest.raises(NumericsError, match="cg stopped after 2 steps"):  # as an operator there is no solution object to ask
        Matrix(M).inverse(0.0, "cg", max_steps=2) @ v
    broken = Matrix(M * torch.inf).solve(v, 0.0, "cg", throw=False)
    assert broken.reason is Reason.BREAKDOWN


def test_martens_rule() -> None:
    """Stops early, when the quadratic model is nearly at its minimum, though the residual is far from small."""
    M, v = spectrum(torch.logspace(-5, 0, 200, dtype=torch.float64)), draw(200)
    solution = Matrix(M).solve(v, 1e-3, "cg", stop="martens", tolerance=1e-12)
    full = Matrix(M).solve(v, 1e-3, "cg")
    assert solution.reason is Reason.PROGRESS
    assert solution.converged
    assert 10 < solution.iterations < full.iterations
    damped = M + 1e-3 * torch.eye(200, dtype=torch.float64)

    def model(x: Tensor) -> float:
        return float(0.5 * x @ damped @ x - v @ x)

    assert model(solution.value) < 0.97 * model(full.value) < 0


@pytest.mark.parametrize(("actual", "expected"), [(-0.1, 1.5), (-0.5, 1.0), (-0.9, 2 / 3)])
def test_levenberg_marquardt(actual: float, expected: float) -> None:
    assert levenberg_marquardt(1.0, actual=actual, predicted=-1.0) == pytest.approx(expected)
    with pytest.raises(InputError, match="predicted change must be negative"):
        levenberg_marquardt(1.0, actual=actual, predicted=0.5)


def test_a_damping_without_digits_is_refused_with_the_least_that_works() -> None:
    model, sequences = build("opt", dtype=torch.float32), examples()
    F = EmpiricalFisher(model, batched(sequences, (5,)))
    with pytest.raises(
        NumericsError, match=r"damping 1e-12 is too small for float32: .* at least \S+ or ask for precision='float64'"
    ):
        F.solve(torch.ones(F.size), 1e-12, "woodbury")
    assert (
        EmpiricalFisher(model, batched(sequences, (5,)), precision="float64")
        .solve(torch.ones(F.size), 1e-9, tolerance=1e-4)
        .converged
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": -1.0}, "damping must be a number that is not negative, got -1.0"),
        ({"damping": float("nan")}, "damping must be a number"),
        ({"damping": 0.0}, "woodbury needs damping > 0"),
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"solver": "lu"}, "unknown solver 'lu'; choose one of: woodbury, recursion"),
        ({"width": 3}, "solver woodbury: .*width"),
        ({"solver": "cg", "stop": "soon"}, "unknown stopping rule 'soon'"),
        ({"solver": "cg", "exponent": -0.5}, "cg gives the inverse only"),
        ({"solver": "recursion", "exponent": -0.5}, "recursion gives the inverse only"),
        ({"solver": "kfac"}, "inverts a KFAC operator, not a EmpiricalFisher"),
        ({"solver": "block", "width": 0}, "width of at least 1"),
    ],
)  # fmt: skip
def test_bad_arguments(fisher: tuple[EmpiricalFisher, Tensor], arguments: dict[str, Any], message: str) -> None:
    F, _ = fisher
    given = {"damping": 0.1, "solver": "woodbury", **arguments}
    with pytest.raises(InputError, match=message):
        F.solve(torch.ones(F.size), **given)


def test_other_refusals(fisher: tuple[EmpiricalFisher, Tensor]) -> None:
    F, _ = fisher
    with pytest.raises(NumericsError, match="the vector to solve for is not finite"):
        F.solve(torch.full((F.size,), torch.nan), 0.1)
    with pytest.raises(InputError, match="woodbury inverts an EmpiricalFisher, not a Matrix"):
        Matrix(torch.eye(3)).solve(torch.ones(3), 0.1, "woodbury")
    indefinite = Matrix(torch.diag(torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)))
    with pytest.raises(NumericsError, match=r"smallest eigenvalue of the damped operator is -0\.4: a power of it is not real"):
        indefinite.solve(torch.ones(3), 0.1, "dense", exponent=-0.5)
    with pytest.raises(NumericsError, match=r"smallest eigenvalue of a damped block is -0\.4"):
        indefinite.solve(torch.ones(3), 0.1, "block", width=2)
    zero = F.solve(torch.zeros(F.size), 0.1)
    assert (zero.converged, float(zero.value.norm())) == (True, 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_answer_on_a_gpu() -> None:
    model, sequences = build("gpt2"), examples()
    on_cpu = EmpiricalFisher(model, batched(sequences, (3, 2)))
    v = draw(on_cpu.size)
    expected = {solver: on_cpu.solve(v, 1e-2, solver).value for solver in ("woodbury", "block", "cg", "recursion")}
    batches = [{key: t.cuda() for key, t in batch.items()} for batch in batched(sequences, (3, 2))]
    on_gpu = EmpiricalFisher(model.cuda(), batches)
    for solver, x in expected.items():
        assert relative(on_gpu.solve(v.cuda(), 1e-2, solver).value.cpu(), x) < 1e-7
