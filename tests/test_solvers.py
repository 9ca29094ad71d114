"""Every solver against a dense float64 solve, and against every other."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from dense import FAMILIES, batched, build, examples, relative
from dense import Dense as Reference
from torch import Tensor

from unlearn_lib.curvature import (
    KFAC,
    Auto,
    Block,
    ConjugateGradients,
    Dense,
    Diagonal,
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    Kronecker,
    NotConvergedError,
    Reason,
    Recursion,
    Solver,
    Woodbury,
    invert,
    named_solver,
    solve,
)
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.solvers.cg import levenberg_marquardt
from unlearn_lib.curvature.solvers.registry import SOLVERS
from unlearn_lib.curvature.vector import Vector, flatten, unflatten
from unlearn_lib.errors import InputError, NumericsError

DAMPINGS = (1.0, 1e-2, 1e-4)
EXACT: tuple[tuple[type[Solver], dict[str, Any]], ...] = (
    (Woodbury, {}), (Woodbury, {"keep": "gradients"}), (Woodbury, {"keep": "nothing", "passes": 2}),
    (Recursion, {}), (ConjugateGradients, {}), (Dense, {}),
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
    return EmpiricalFisher(model, batched(sequences, (3, 2))), Reference(model, sequences).fisher()


@pytest.mark.parametrize("damping", DAMPINGS)
def test_all_solvers_agree(fisher: tuple[EmpiricalFisher, Tensor], damping: float) -> None:
    F, dense = fisher
    damped, v = dense + damping * torch.eye(F.size, dtype=torch.float64), draw(F.size)
    expected = torch.linalg.solve(damped, v)
    for solver, options in EXACT:
        solution = solve(F, v, solver(damping, **options))
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
    expected = torch.linalg.solve(Reference(model, sequences).fisher() + 0.01 * torch.eye(F.size, dtype=torch.float64), v)
    solution = solve(F, unflatten(v, F.params), Auto(0.01))  # woodbury is the Fisher's default
    assert isinstance(solution.value, dict)
    assert relative(flatten(solution.value), expected) < 1e-8


@pytest.mark.parametrize("width", [1, 5, 1000])
@pytest.mark.parametrize("solver", [Block, Recursion])
def test_blocks(fisher: tuple[EmpiricalFisher, Tensor], solver: type[Block | Recursion], width: int) -> None:
    F, dense = fisher
    blocks = torch.zeros_like(dense)
    first = 0
    for p in F.params.values():
        for start in range(first, first + p.numel(), width):
            stop = min(start + width, first + p.numel())
            blocks[start:stop, start:stop] = dense[start:stop, start:stop]
        first += p.numel()
    v = draw(F.size)
    solution = solve(F, v, solver(1e-3, width=width))
    assert relative(solution.value, torch.linalg.solve(blocks + 1e-3 * torch.eye(F.size, dtype=torch.float64), v)) < 1e-8
    assert solution.operator == f"block diagonal (width {width}) of EmpiricalFisher + 0.001 I"


def test_block_and_diagonal_of_any_operator(fisher: tuple[EmpiricalFisher, Tensor]) -> None:
    F, dense = fisher
    v, eye = draw(F.size), torch.eye(F.size, dtype=torch.float64)
    assert relative(solve(F, v, Diagonal(1e-3)).value, v / (dense.diagonal() + 1e-3)) < 1e-9
    M = spectrum(torch.linspace(0.1, 2, 12, dtype=torch.float64))
    blocks = torch.block_diag(M[:5, :5], M[5:10, 5:10], M[10:, 10:])
    x = solve(Matrix(M), v[:12], Block(0.1, width=5)).value
    assert relative(x, torch.linalg.solve(blocks + 0.1 * eye[:12, :12], v[:12])) < 1e-12
    assert relative(solve(Matrix(M), v[:12], Diagonal(0.1)).value, v[:12] / (M.diagonal() + 0.1)) < 1e-12


@pytest.mark.parametrize("exponent", [-0.5, -0.25, 0.5, -1.0, 1.0])
@pytest.mark.parametrize("damping", [1.0, 1e-3])
def test_powers(fisher: tuple[EmpiricalFisher, Tensor], exponent: float, damping: float) -> None:
    F, dense = fisher
    v, eye = draw(F.size), torch.eye(F.size, dtype=torch.float64)
    expected = power_of(dense + damping * eye, exponent) @ v
    for solver in (Woodbury(damping), Dense(damping)):
        assert relative(solve(F, v, solver, exponent=exponent).value, expected) < 1e-7
    whole = solve(F, v, Block(damping, width=F.size), exponent=exponent).value  # blocks as wide as each tensor
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
    loose = solve(F, v, Woodbury(1e-3), tolerance=0.1)
    tight = solve(F, v, Woodbury(1e-3), tolerance=loose.residual / 2, throw=False)
    assert loose.iterations == 0
    assert tight.iterations == 1
    assert tight.residual < loose.residual
    assert tight.gradient_evaluations > loose.gradient_evaluations


def test_cg_statistics_and_steps() -> None:
    """Three different eigenvalues: three steps, whatever the size."""
    M = spectrum(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64).repeat(10))
    v = draw(30)
    solution = solve(Matrix(M), v, ConjugateGradients(0.0))
    assert solution.iterations == 3
    assert relative(solution.value, torch.linalg.solve(M, v)) < 1e-9
    assert solution.gradient_evaluations == 0  # no sequences
    near = torch.linalg.solve(M, v)
    before = near.clone()
    assert solve(Matrix(M), v, ConjugateGradients(0.0, start={"x": near}), tolerance=1e-6).iterations == 0
    assert solve(Matrix(M), v, ConjugateGradients(0.0, start=near + 0.1)).iterations <= 3
    assert torch.equal(near, before)


def test_preconditioner() -> None:
    values = torch.logspace(-4, 2, 60, dtype=torch.float64)
    M, v = spectrum(values), draw(60)
    plain = solve(Matrix(M), v, ConjugateGradients(1e-4, max_steps=1000), tolerance=1e-6)
    preconditioner = Matrix(spectrum(1 / (values * 1.3 + 1e-4)))
    helped = solve(Matrix(M), v, ConjugateGradients(1e-4, preconditioner=preconditioner), tolerance=1e-8)
    assert helped.iterations < plain.iterations / 4
    assert relative(helped.value, torch.linalg.solve(M + 1e-4 * torch.eye(60, dtype=torch.float64), v)) < 1e-4


def test_the_fishers_inverse_preconditions_itself(fisher: tuple[EmpiricalFisher, Tensor]) -> None:
    F, _ = fisher
    v = draw(F.size)
    preconditioner = invert(F, Woodbury(1e-3, keep="gradients"))
    solution = solve(F, v, ConjugateGradients(1e-3, preconditioner=preconditioner))
    assert solution.iterations <= 2


def test_negative_curvature_is_an_error_with_the_remedy() -> None:
    model, sequences = build("opt"), examples()
    H = Hessian(model, batched(sequences, (3, 2)))
    v = draw(H.size)
    with pytest.raises(NotConvergedError, match=r"negative curvature.*raise the damping.*or use GaussNewton") as caught:
        solve(H, v, Auto(1e-2))
    assert caught.value.solution.reason is Reason.NEGATIVE_CURVATURE
    assert not caught.value.solution.converged
    enough = solve(H, v, Auto(10.0))
    assert (
        relative(
            enough.value,
            torch.linalg.solve(Reference(model, sequences).hessian() + 10 * torch.eye(H.size, dtype=torch.float64), v),
        )
        < 1e-8
    )
    assert solve(GaussNewton(model, batched(sequences, (3, 2))), v, Auto(1e-1)).converged


def test_other_reasons() -> None:
    M, v = spectrum(torch.logspace(-6, 2, 40, dtype=torch.float64)), draw(40)
    with pytest.raises(NotConvergedError, match="step limit was reached"):
        solve(Matrix(M), v, ConjugateGradients(0.0, max_steps=5))
    short = solve(Matrix(M), v, ConjugateGradients(0.0, max_steps=5), throw=False)
    assert (short.reason, short.iterations, short.converged) == (Reason.STEP_LIMIT, 5, False)
    assert short.residual == pytest.approx(float((v - M @ short.value).norm() / v.norm()))
    stuck = solve(Matrix(M.float()), v.float(), ConjugateGradients(0.0, max_steps=100_000), tolerance=1e-9, throw=False)
    assert stuck.reason is Reason.STAGNATION
    assert stuck.iterations < 5000
    with pytest.raises(NumericsError, match="cg stopped after 2 steps"):  # as an operator there is no solution object to ask
        invert(Matrix(M), ConjugateGradients(0.0, max_steps=2)) @ v
    broken = solve(Matrix(M * torch.inf), v, ConjugateGradients(0.0), throw=False)
    assert broken.reason is Reason.BREAKDOWN


def test_martens_rule() -> None:
    """Stops early, when the quadratic model is nearly at its minimum, though the residual is far from small."""
    M, v = spectrum(torch.logspace(-5, 0, 200, dtype=torch.float64)), draw(200)
    solution = solve(Matrix(M), v, ConjugateGradients(1e-3, stop="martens"), tolerance=1e-12)
    full = solve(Matrix(M), v, ConjugateGradients(1e-3))
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
        solve(F, torch.ones(F.size), Woodbury(1e-12))
    wide = EmpiricalFisher(model, batched(sequences, (5,)), precision="float64")
    assert solve(wide, torch.ones(F.size), Auto(1e-9), tolerance=1e-4).converged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": -1.0}, "damping must be a number that is not negative, got -1.0"),
        ({"damping": float("nan")}, "damping must be a number"),
        ({"damping": 0.0}, "woodbury needs damping > 0"),
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"name": "lu"}, "unknown solver 'lu'; choose one of: woodbury, recursion"),
        ({"width": 3}, "solver woodbury: .*width"),
        ({"name": "cg", "stop": "soon"}, "unknown stopping rule 'soon'"),
        ({"name": "cg", "exponent": -0.5}, "cg gives the inverse only"),
        ({"name": "recursion", "exponent": -0.5}, "recursion gives the inverse only"),
        ({"name": "kfac"}, "inverts a KFAC operator, not a EmpiricalFisher"),
        ({"name": "block", "width": 0}, "width of at least 1"),
    ],
)  # fmt: skip
def test_bad_arguments(fisher: tuple[EmpiricalFisher, Tensor], arguments: dict[str, Any], message: str) -> None:
    F, _ = fisher
    given = {"damping": 0.1, "name": "woodbury", **arguments}
    call = {option: given.pop(option) for option in ("tolerance", "exponent") if option in given}
    with pytest.raises(InputError, match=message):
        solve(F, torch.ones(F.size), named_solver(**given), **call)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_registry_gives_the_solver_of_a_name(name: str) -> None:
    solver = named_solver(name, 0.5)
    assert (type(solver), solver.name, solver.damping, solver.label) == (SOLVERS[name], name, 0.5, name)
    with pytest.raises(FrozenInstanceError):
        solver.damping = 1.0  # type: ignore[misc]
    with pytest.raises(InputError, match=rf"solver {name}: .*'lu'; see help\(unlearn_lib.curvature.solvers.{name}\)"):
        named_solver(name, 0.5, lu=True)


def test_the_registry_passes_options_on() -> None:
    assert named_solver("woodbury", 0.1, keep="nothing", passes=2) == Woodbury(0.1, keep="nothing", passes=2)
    assert named_solver("block", 0.1, width=5) == Block(0.1, width=5) != Block(0.1)
    steps = named_solver("cg", 0.1, max_steps=7, linearize=True)
    assert steps.label == "cg, max_steps=7, linearize=True"


@pytest.mark.parametrize(("make", "kind"), [(EmpiricalFisher, Woodbury), (KFAC, Kronecker), (GaussNewton, ConjugateGradients)])
def test_auto_takes_the_solver_that_suits_the_operator(make: Any, kind: type[Solver]) -> None:
    operator = make(build("opt"), batched(examples(), (5,)))
    chosen = Auto(0.5).suited_to(operator)
    assert (type(chosen), chosen.damping) == (kind, 0.5)


def test_other_refusals(fisher: tuple[EmpiricalFisher, Tensor]) -> None:
    F, _ = fisher
    with pytest.raises(NumericsError, match="the vector to solve for is not finite"):
        solve(F, torch.full((F.size,), torch.nan), Auto(0.1))
    with pytest.raises(InputError, match="woodbury inverts an EmpiricalFisher, not a Matrix"):
        solve(Matrix(torch.eye(3)), torch.ones(3), Woodbury(0.1))
    indefinite = Matrix(torch.diag(torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)))
    with pytest.raises(NumericsError, match=r"smallest eigenvalue of the damped operator is -0\.4: a power of it is not real"):
        solve(indefinite, torch.ones(3), Dense(0.1), exponent=-0.5)
    with pytest.raises(NumericsError, match=r"smallest eigenvalue of a damped block is -0\.4"):
        solve(indefinite, torch.ones(3), Block(0.1, width=2))
    with pytest.raises(InputError, match="keep, passes, chunk and factors are for an EmpiricalFisher, not for a Matrix"):
        invert(indefinite, Block(0.1, keep="nothing"))
    zero = solve(F, torch.zeros(F.size), Auto(0.1))
    assert (zero.converged, float(zero.value.norm())) == (True, 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_answer_on_a_gpu() -> None:
    model, sequences = build("gpt2"), examples()
    on_cpu = EmpiricalFisher(model, batched(sequences, (3, 2)))
    v = draw(on_cpu.size)
    solvers = [kind(1e-2) for kind in (Woodbury, Block, ConjugateGradients, Recursion)]
    expected = [(solver, solve(on_cpu, v, solver).value) for solver in solvers]
    batches = [{key: t.cuda() for key, t in batch.items()} for batch in batched(sequences, (3, 2))]
    on_gpu = EmpiricalFisher(model.cuda(), batches)
    for solver, x in expected:
        assert relative(solve(on_gpu, v.cuda(), solver).value.cpu(), x) < 1e-7
