# SPDX-License-Identifier: MIT
"""Runge-Kutta methods as data: Butcher tableaus with error weights and dense output, validated when they are built.

A step of length h from (t, y) has the stages k_i = f(t + c_i h, y + h sum_j a_ij k_j) and ends at y + h sum_j b_j k_j.
The error estimate is h sum_j e_j k_j with e = b - b_hat, and between the ends of the step
y(t + theta h) = y + h sum_j (sum_p dense_jp theta^(p+1)) k_j. Nothing in this module holds an array.

A method has order p if for every rooted tree of at most p vertices sum_i b_i phi_i(tree) = 1 / density(tree), with
the elementary weights phi_i (Hairer, Norsett, Wanner 1993, theorem II.2.13). Its dense output has order p if these
equations hold with b_i(theta) and theta^vertices / density on the right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import chain
from typing import NamedTuple

from nnsym_fast._trees import dot, elementary_weights, rooted_trees

__all__ = ["ALIASES", "METHODS", "Tableau", "tableau"]

Vector = tuple[float, ...]
Rows = tuple[Vector, ...]

TOLERANCE = 2.0**-46
"""Largest deviation of a condition, relative to the sum of the magnitudes of its terms: 64 roundings."""

MAX_ORDER = 10
"""Above it the trees are too many to check at once: 719 have ten vertices, 1842 eleven."""


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method.

    Attributes:
        name: how errors call it.
        citation: where its numbers come from.
        order: of the method; the order conditions are checked up to it.
        c: the times of the stages in units of the step, s numbers, the first is 0.
        a: row i has i entries, which sum to c_i.
        b: s weights.
        error: (): fixed steps only; one row of s weights b - b_hat; or two rows (E5, E3), whose sums over the stages
            give the error |E5|^2 / sqrt(|E5|^2 + |E3|^2 / 100) (Hairer's DOP853).
        error_order: the estimate is O(h^(error_order + 1)).
        extra_c, extra_a: stages that only the dense output needs; row j has s + j entries.
        dense: a row for every stage, the extra ones included: its coefficients of theta, theta^2, ...
        dense_order: of the dense output; its conditions are checked up to it, for all theta.

    Raises:
        TypeError: an entry that is no number.
        ValueError: lengths that do not match, or a condition that does not hold: which one, and by how much.

    >>> Tableau("Ralston", "Ralston 1962", 2, c=(0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4)).stages
    2
    """

    name: str
    citation: str
    order: int
    c: Vector
    a: Rows
    b: Vector
    error: Rows = ()
    error_order: int = 0
    extra_c: Vector = ()
    extra_a: Rows = ()
    dense: Rows = ()
    dense_order: int = 0

    @property
    def stages(self) -> int:
        """Stages of a step, without those of the dense output."""
        return len(self.b)

    @property
    def adaptive(self) -> bool:
        """Whether it estimates its error."""
        return bool(self.error)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is the first one of the next step: it is taken at the end of the step."""
        return self.stages > 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1] and self.c[-1] == 1

    def __post_init__(self) -> None:
        for field in ("c", "b", "extra_c"):
            object.__setattr__(self, field, self._vector(field, getattr(self, field)))
        for field in ("a", "error", "extra_a", "dense"):
            rows = tuple(self._vector(f"{field}[{i}]", row) for i, row in enumerate(getattr(self, field)))
            object.__setattr__(self, field, rows)
        self._check_lengths()
        self._check_rows()
        self._check_order()

    def _vector(self, field: str, values: Iterable[float]) -> Vector:
        try:
            vector = tuple(float(value) for value in values)
        except (TypeError, ValueError):
            raise TypeError(f"tableau {self.name!r}: {field}: expected real numbers, got {values!r}") from None
        if not all(map(math.isfinite, vector)):
            raise ValueError(f"tableau {self.name!r}: {field}: expected finite numbers, got {vector}")
        return vector

    def _expect(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            raise ValueError(f"tableau {self.name!r}: {what}: expected {expected}, got {got}")

    def _check_lengths(self) -> None:
        s, extra = self.stages, len(self.extra_c)
        if not 1 <= self.order <= MAX_ORDER:
            raise ValueError(f"tableau {self.name!r}: order: expected 1 to {MAX_ORDER}, got {self.order}")
        if not 0 <= self.dense_order <= self.order:
            raise ValueError(f"tableau {self.name!r}: dense_order: expected 0 to {self.order}, got {self.dense_order}")
        self._expect("length of c", len(self.c), s)
        self._expect("lengths of the rows of a", [len(row) for row in self.a], list(range(s)))
        self._expect("lengths of the rows of extra_a", [len(row) for row in self.extra_a], list(range(s, s + extra)))
        if len(self.error) > 2:
            raise ValueError(f"tableau {self.name!r}: error: expected at most two rows, got {len(self.error)}")
        self._expect("lengths of the rows of error", [len(row) for row in self.error], [s] * len(self.error))
        if self.dense:
            self._expect("rows of dense: one for each stage", len(self.dense), s + extra)
            powers = len(self.dense[0])
            self._expect("lengths of the rows of dense", [len(row) for row in self.dense], [powers] * len(self.dense))
        self._expect("dense_order > 0", self.dense_order > 0, bool(self.dense))
        self._expect("extra stages with dense output", extra > 0 and not self.dense, False)
        self._expect("error_order > 0", self.error_order > 0, bool(self.error))

    def _check(self, condition: str, value: float, exact: Fraction | float, size: float) -> None:
        """The value is the exact one, but for what rounding does to terms whose magnitudes sum to ``size``."""
        deviation = value - float(exact)
        if abs(deviation) > TOLERANCE * max(size, abs(float(exact))):
            raise ValueError(
                f"tableau {self.name!r}: {condition}: expected {exact}, got {value!r}, off by {deviation:.3g}; correct "
                "the coefficients, give them to full double precision, or declare a lower order"
            )

    def _check_rows(self) -> None:
        for i, (c, row) in enumerate(zip(chain(self.c, self.extra_c), chain(self.a, self.extra_a), strict=True)):
            self._check(f"sum of row {i} of a, which is c[{i}]", math.fsum(row), c, math.fsum(map(abs, row)))
        for j, row in enumerate(self.dense):
            condition = f"sum of row {j} of dense, the weight of the stage at the end of the step"
            exact = self.b[j] if j < self.stages else 0.0
            self._check(condition, math.fsum(row), exact, math.fsum(map(abs, row)))
        for i, row in enumerate(self.error):
            self._expect(f"any weight of error[{i}]", any(row), True)

    def _check_order(self) -> None:
        trees = rooted_trees(self.order)
        a = self.a + self.extra_a
        phi = elementary_weights(a, trees)
        # The same sums with all signs positive: what the terms of a condition can lose to rounding.
        sizes = elementary_weights(tuple(tuple(map(abs, row)) for row in a), trees)

        def check(what: str, weights: Vector, number: int, exact: Fraction | int) -> None:
            tree = trees[number]
            condition = f"{what}, order condition of the tree {tree.name} with {tree.vertices} vertices"
            self._check(condition, dot(weights, phi[number]), exact, dot(map(abs, weights), sizes[number]))

        for number, tree in enumerate(trees):
            check("b", self.b, number, Fraction(1, tree.density))
        for number, tree in enumerate(trees):
            if tree.vertices <= self.dense_order:
                for power, weights in enumerate(zip(*self.dense, strict=True), start=1):
                    exact = Fraction(1, tree.density) if power == tree.vertices else 0
                    check(f"dense, coefficients of theta^{power}", weights, number, exact)

        def vanishing(weights: Vector) -> int:
            """The number of vertices up to which the weights annihilate every tree."""
            for number, tree in enumerate(trees):
                if abs(dot(weights, phi[number])) > TOLERANCE * dot(map(abs, weights), sizes[number]):
                    return tree.vertices - 1
            return self.order

        if self.error:
            orders = [vanishing(row) for row in self.error]
            # The estimate is O(h^(p + 1)); of two rows, of orders p and q, O(h^(2 (p + 1) - (q + 1))).
            reached = orders[0] if len(orders) == 1 else 2 * orders[0] - orders[1]
            condition = f"error_order, where the rows of error annihilate all trees of at most {orders} vertices"
            self._expect(condition, self.error_order, reached)


class _Data(NamedTuple):
    """Numbers as they are printed: fractions or decimals, between blanks; rows end at a semicolon.

    Dense output: ``dense``, a row per stage, or ``corrections`` to the cubic Hermite polynomial, see :func:`_hermite`.
    """

    citation: str
    order: int
    c: str
    a: str
    b: str
    error: str = ""
    error_order: int = 0
    extra_c: str = ""
    extra_a: str = ""
    dense: str = ""
    corrections: str | None = None
    dense_order: int = 0


_DATA = {
    "euler": _Data("Euler 1768", order=1, c="0", a="", b="1"),
    "midpoint": _Data("Runge 1895", order=2, c="0 1/2", a="; 1/2", b="0 1"),
    "heun2": _Data(
        "Heun 1900, with Euler's method as error estimate and its quadratic continuation",
        order=2,
        c="0 1",
        a="; 1",
        b="1/2 1/2",
        error="-1/2 1/2",
        error_order=1,
        dense="1 -1/2; 0 1/2",
        dense_order=2,
    ),
    "rk4": _Data("Kutta 1901", order=4, c="0 1/2 1/2 1", a="; 1/2; 0 1/2; 0 0 1", b="1/6 1/3 1/3 1/6"),
    "rk4_38": _Data("Kutta 1901, 3/8 rule", order=4, c="0 1/3 2/3 1", a="; 1/3; -1/3 1; 1 -1 1", b="1/8 3/8 3/8 1/8"),
    "bosh3": _Data(
        "Bogacki, Shampine 1989, 3(2); cubic Hermite dense output",
        order=3,
        c="0 1/2 3/4 1",
        a="; 1/2; 0 3/4; 2/9 1/3 4/9",
        b="2/9 1/3 4/9 0",
        error="-5/72 1/12 1/9 -1/8",
        error_order=2,
        corrections="",
        dense_order=3,
    ),
    "dopri5": _Data(
        "Dormand, Prince 1980, 5(4); dense output of order 4: Shampine 1986, as in Hairer, Norsett, Wanner's DOPRI5",
        order=5,
        c="0 1/5 3/10 4/5 8/9 1 1",
        a="""
            ;
            1/5;
            3/40 9/40;
            44/45 -56/15 32/9;
            19372/6561 -25360/2187 64448/6561 -212/729;
            9017/3168 -355/33 46732/5247 49/176 -5103/18656;
            35/384 0 500/1113 125/192 -2187/6784 11/84""",
        b="35/384 0 500/1113 125/192 -2187/6784 11/84 0",
        error="71/57600 0 -71/16695 71/1920 -17253/339200 22/525 -1/40",
        error_order=4,
        corrections="""
            -12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072
            701980252875/199316789632 -1453857185/822651844 69997945/29380423""",
        dense_order=4,
    ),
    "tsit5": _Data(
        "Tsitouras 2011, 5(4), with his interpolant of order 4; digits beyond those printed solve the order conditions",
        order=5,
        c="0 0.161 0.327 0.9 0.9800255409045096857298103 1 1",
        a="""
            ;
            0.161;
            -0.008480655492356988544426874 0.3354806554923569885444269;
            2.897153057105493432130433 -6.35944848997507484314816 4.362295432869581411017727;
            5.325864828439256604428878 -11.74888356406282787774717 7.495539342889836208304605
            -0.09249506636175524925650208;
            5.861455442946420028659251 -12.92096931784710929170612 8.159367898576158643180401
            -0.07158497328140099722453054 -0.02826905039406838290900306;
            0.09646076681806522951816731 0.01 0.4798896504144995747752495 1.379008574103741893192275
            -3.290069515436080679901048 2.324710524099773982415356""",
        b="""
            0.09646076681806522951816731 0.01 0.4798896504144995747752495 1.379008574103741893192275
            -3.290069515436080679901048 2.324710524099773982415356 0""",
        error="""
            0.00178001105222577144337855 0.00081643445965674690322364 -0.00788087801026199601031473
            0.14471100717326290753716515 -0.58235716545255522501993761 0.45808210592918694666163652 -1/66""",
        error_order=4,
        dense="""
            1 -2.7637061972748258687 2.9132554618219126554 -1.0530884977290215572;
            0 0.1317 -0.2234 0.1017;
            0 3.9302962368947515174 -5.9410338721315047357 2.4906272856512527931;
            0 -12.411077166933677039 30.33818863028232165 -16.548102889244902718;
            0 37.509313416511039179 -88.178904894766401078 47.379521962819281219;
            0 -27.896526289197287789 65.091894674793671508 -34.870657861496609736;
            0 3/2 -4 5/2""",
        dense_order=4,
    ),
    "dopri8": _Data(
        "Hairer, Norsett, Wanner 1993, sections II.5 and II.6, code DOP853: 8(5, 3), dense output of order 7",
        order=8,
        c="""
        0 0.0526001519587677318785587544488 0.0789002279381515978178381316732 0.11835034190722739672675719751
        0.28164965809277260327324280249 1/3 0.25 4/13 0.651282051282051282051282051282 0.6 6/7 1""",
        a="""
        ;
        0.0526001519587677318785587544488;
        0.0197250569845378994544595329183 0.0591751709536136983633785987549;
        0.0295875854768068491816892993775 0 0.0887627564304205475450678981324;
        0.241365134159266685502369798665 0 -0.884549479328286085344864962717 0.924834003261792003115737966543;
        0.037037037037037037037037037037 0 0 0.170828608729473871279604482173 0.125467687566822425016691814123;
        0.037109375 0 0 0.170252211019544039314978060272 0.0602165389804559606850219397283 -0.017578125;
        0.0370920001185047927108779319836 0 0 0.170383925712239993810214054705 0.107262030446373284651809199168
        -0.0153194377486244017527936158236 0.00827378916381402288758473766002;
        0.624110958716075717114429577812 0 0 -3.36089262944694129406857109825 -0.868219346841726006818189891453
        27.5920996994467083049415600797 20.1540675504778934086186788979 -43.4898841810699588477366255144;
        0.477662536438264365890433908527 0 0 -2.48811461997166764192642586468 -0.590290826836842996371446475743
        21.2300514481811942347288949897 15.2792336328824235832596922938 -33.2882109689848629194453265587
        -0.0203312017085086261358222928593;
        -0.93714243008598732571704021658 0 0 5.18637242884406370830023853209 1.09143734899672957818500254654
        -8.14978701074692612513997267357 -18.5200656599969598641566180701 22.7394870993505042818970056734
        2.49360555267965238987089396762 -3.0467644718982195003823669022;
        2.27331014751653820792359768449 0 0 -10.5344954667372501984066689879 -2.00087205822486249909675718444
        -17.9589318631187989172765950534 27.9488845294199600508499808837 -2.85899827713502369474065508674
        -8.87285693353062954433549289258 12.3605671757943030647266201528 0.643392746015763530355970484046""",
        b="""
        0.0542937341165687622380535766363 0 0 0 0 4.45031289275240888144113950566 1.89151789931450038304281599044
        -5.8012039600105847814672114227 0.31116436695781989440891606237 -0.152160949662516078556178806805
        0.201365400804030348374776537501 0.0447106157277725905176885569043""",
        error="""
        0.01312004499419488073250102996 0 0 0 0 -1.225156446376204440720569753 -0.4957589496572501915214079952
        1.664377182454986536961530415 -0.350328848749973681688648729 0.3341791187130174790297318841
        0.08192320648511571246570742613 -0.02235530786388629525884427845;
        -0.1898007540724076157147023288757 0 0 0 0 4.45031289275240888144113950566 1.89151789931450038304281599044
        -5.8012039600105847814672114227 -0.422682321323791962932445679177 -0.152160949662516078556178806805
        0.201365400804030348374776537501 0.0226517921983608258118062039631""",
        error_order=7,
        extra_c="1 0.1 0.2 7/9",
        extra_a="""
        0.0542937341165687622380535766363 0 0 0 0 4.45031289275240888144113950566 1.89151789931450038304281599044
        -5.8012039600105847814672114227 0.31116436695781989440891606237 -0.152160949662516078556178806805
        0.201365400804030348374776537501 0.0447106157277725905176885569043;
        0.0561675022830479523392909219681 0 0 0 0 0 0.253500210216624811088794765333 -0.246239037470802489917441475441
        -0.124191423263816360469010140626 0.15329179827876569731206322685 0.00820105229563468988491666602057
        0.00756789766054569976138603589584 -0.008298;
        0.0318346481635021405060768473261 0 0 0 0 0.0283009096723667755288322961402 0.0535419883074385676223797384372
        -0.0549237485713909884646569340306 0 0 -0.000108347328697249322858509316994 0.000382571090835658412954920192323
        -0.000340465008687404560802977114492 0.141312443674632500278074618366;
        -0.428896301583791923408573538692 0 0 0 0 -4.69762141536116384314449447206 7.68342119606259904184240953878
        4.06898981839711007970213554331 0.356727187455281109270669543021 0 0 0 -0.00139902416515901462129418009734
        2.9475147891527723389556272149 -9.15095847217987001081870187138""",
        corrections="""
        -8.4289382761090128651353491142 0 0 0 0 0.5667149535193777696253178359 -3.0689499459498916912797304727
        2.384667656512069828772814968 2.1170345824450282767155149946 -0.8713915837779729920678990749
        2.240437430260788275854177165 0.6315787787694688181557024929 -0.0889903364513333108206981174
        18.148505520854727256656404962 -9.1946323924783554000451984436 -4.4360363875948939664310572;
        10.427508642579134603413151009 0 0 0 0 242.28349177525818288430175319 165.20045171727028198505394887
        -374.54675472269020279518312152 -22.113666853125306036270938578 7.7334326684722638389603898808
        -30.674084731089398182061213626 -9.3321305264302278729567221706 15.697238121770843886131091075
        -31.139403219565177677282850411 -9.3529243588444783865713862664 35.81684148639408375246589854;
        19.985053242002433820987653617 0 0 0 0 -387.03730874935176555105901742 -189.17813819516756882830838328
        527.80815920542364900561016686 -11.573902539959630126141871134 6.8812326946963000169666922661
        -1.000605096691083840318386098 0.7777137798053443209286926574 -2.7782057523535084065932004339
        -60.196695231264120758267380846 84.320405506677161018159903784 11.99229113618278932803513003;
        -25.693933462703749003312586129 0 0 0 0 -154.18974869023643374053993627 -231.52937917604549567536039109
        357.6391179106141237828534991 93.405324183624310003907691704 -37.458323136451633156875139351
        104.09964950896230045147246184 29.840293426660503123344363579 -43.533456590011143754432175058
        96.3245539591882829483949506 -39.177261675615439165231486172 -149.72683625798562581422125276""",
        dense_order=7,
    ),
}

METHODS: tuple[str, ...] = tuple(_DATA)
"""The names that :func:`tableau` knows."""

ALIASES = {"adaptive_heun": "heun2"}
"""Another name of a method -> its name."""


def _rows(text: str) -> list[list[Fraction]]:
    return [[Fraction(number) for number in row.split()] for row in text.split(";")]


def _floats(text: str) -> Rows:
    return tuple(tuple(map(float, row)) for row in _rows(text))


def _hermite(b: list[Fraction], last: int, corrections: list[list[Fraction]]) -> Rows:
    """Dense output that meets both ends of the step with value and slope, as coefficients of powers of theta.

    With d = y_new - y in units of h, k_1 and k_last the slopes at the ends, it is the nested polynomial
    theta (d + (1 - theta) (k_1 - d + theta (2 d - k_1 - k_last + (1 - theta) (r_1 + theta (r_2 + ...)))))
    whose r are the corrections (Hairer, Norsett, Wanner 1993, section II.6). Exact until the last rounding.
    """
    dense = []
    for stage, slope in enumerate(b):
        at_start, at_end = int(stage == 0), int(stage == last)
        nested = [slope, at_start - slope, 2 * slope - at_start - at_end, *(row[stage] for row in corrections)]
        powers: list[Fraction] = []
        for level in range(len(nested) - 1, -1, -1):
            powers = [nested[level] + sum(powers[:1]), *powers[1:]]
            lower, upper = [Fraction(0), *powers], [*powers, Fraction(0)]
            powers = lower if level % 2 == 0 else [u - v for u, v in zip(upper, lower, strict=True)]
        dense.append(tuple(map(float, powers[1:])))
    return tuple(dense)


@cache
def tableau(name: str) -> Tableau:
    """The method of a name: one of :data:`METHODS`, or an alias of :data:`ALIASES`.

    Raises:
        ValueError: an unknown name.

    >>> tableau("dopri5").fsal, tableau("dopri8").stages, tableau("rk4").adaptive
    (True, 12, False)
    """
    data = _DATA.get(ALIASES.get(name, name))
    if data is None:
        aliases = ", ".join(f"{alias} (for {method})" for alias, method in ALIASES.items())
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, {aliases}, or a Tableau, got {name!r}")
    (b,) = _rows(data.b)
    extra_c = _rows(data.extra_c)[0]
    dense = _floats(data.dense) if data.dense else ()
    if data.corrections is not None:
        corrections = _rows(data.corrections) if data.corrections else []
        # The slope at the end is the first stage after the step's own, or the last one of a method that reuses it.
        last = len(b) if extra_c else len(b) - 1
        dense = _hermite(b + [Fraction(0)] * len(extra_c), last, corrections)
    return Tableau(
        name=ALIASES.get(name, name),
        citation=data.citation,
        order=data.order,
        c=_floats(data.c)[0],
        a=_floats(data.a),
        b=tuple(map(float, b)),
        error=_floats(data.error) if data.error else (),
        error_order=data.error_order,
        extra_c=tuple(map(float, extra_c)),
        extra_a=_floats(data.extra_a) if data.extra_a else (),
        dense=dense,
        dense_order=data.dense_order,
    )
