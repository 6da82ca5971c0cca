"use strict";
// What LaTeX commands stand for, for mathematics.js. Standard names only; one line a kind.

const SYMBOLS = (() => {
  const pairs = (text) => Object.fromEntries(text.trim().split(/\s+/).map((pair) => pair.split(":")));

  const letters = pairs(`
    alpha:α beta:β gamma:γ delta:δ epsilon:ϵ varepsilon:ε zeta:ζ eta:η theta:θ vartheta:ϑ iota:ι kappa:κ lambda:λ mu:μ nu:ν xi:ξ omicron:ο
    pi:π varpi:ϖ rho:ρ varrho:ϱ sigma:σ varsigma:ς tau:τ upsilon:υ phi:ϕ varphi:φ chi:χ psi:ψ omega:ω
    ell:ℓ hbar:ℏ imath:ı jmath:ȷ wp:℘ aleph:ℵ beth:ℶ partial:∂ Re:ℜ Im:ℑ`);

  const upright = pairs(`
    Gamma:Γ Delta:Δ Theta:Θ Lambda:Λ Xi:Ξ Pi:Π Sigma:Σ Upsilon:Υ Phi:Φ Psi:Ψ Omega:Ω infty:∞ emptyset:∅ varnothing:∅ nabla:∇ angle:∠
    measuredangle:∡ sphericalangle:∢ triangle:△ bigtriangleup:△ square:□ Box:□ blacksquare:■ lozenge:◊ bigstar:★ top:⊤ bot:⊥ degree:°
    clubsuit:♣ diamondsuit:♢ heartsuit:♡ spadesuit:♠ flat:♭ natural:♮ sharp:♯ dag:† dagger:† ddagger:‡ S:§ P:¶ pounds:£ euro:€ checkmark:✓
    forall:∀ exists:∃ nexists:∄ complement:∁ backslash:\\ prime:′ ldots:… dots:… dotsc:… dotso:… cdots:⋯ dotsb:⋯ dotsm:⋯ dotsi:⋯ vdots:⋮ ddots:⋱
    $:$ %:% #:# &:& _:_ copyright:© QED:∎ mho:℧ LaTeX:LaTeX TeX:TeX`);

  const operators = pairs(`
    pm:± mp:∓ times:× div:÷ cdot:⋅ ast:∗ star:⋆ circ:∘ bullet:∙ oplus:⊕ ominus:⊖ otimes:⊗ oslash:⊘ odot:⊙ dotplus:∔ diamond:⋄
    cap:∩ cup:∪ sqcap:⊓ sqcup:⊔ uplus:⊎ setminus:∖ smallsetminus:∖ wedge:∧ land:∧ vee:∨ lor:∨ neg:¬ lnot:¬ wr:≀ amalg:⨿ bigcirc:◯
    le:≤ leq:≤ leqslant:⩽ leqq:≦ ge:≥ geq:≥ geqslant:⩾ geqq:≧ ll:≪ gg:≫ lt:< gt:> ne:≠ neq:≠ equiv:≡ sim:∼ simeq:≃ approx:≈ cong:≅ doteq:≐
    propto:∝ asymp:≍ prec:≺ succ:≻ preceq:⪯ succeq:⪰ triangleq:≜ coloneqq:≔ nless:≮ ngtr:≯ nleq:≰ ngeq:≱ approxeq:≊
    in:∈ ni:∋ notin:∉ subset:⊂ supset:⊃ subseteq:⊆ supseteq:⊇ subsetneq:⊊ supsetneq:⊋ nsubseteq:⊈ sqsubseteq:⊑ sqsupseteq:⊒
    mid:∣ nmid:∤ parallel:∥ nparallel:∦ perp:⊥ vdash:⊢ dashv:⊣ models:⊨ vDash:⊨ therefore:∴ because:∵ triangleleft:◁ triangleright:▷
    to:→ rightarrow:→ leftarrow:← gets:← leftrightarrow:↔ uparrow:↑ downarrow:↓ updownarrow:↕ Rightarrow:⇒ Leftarrow:⇐ Leftrightarrow:⇔
    Uparrow:⇑ Downarrow:⇓ longrightarrow:⟶ longleftarrow:⟵ longleftrightarrow:⟷ Longrightarrow:⟹ Longleftarrow:⟸ Longleftrightarrow:⟺
    implies:⟹ impliedby:⟸ iff:⟺ mapsto:↦ longmapsto:⟼ hookrightarrow:↪ hookleftarrow:↩ nearrow:↗ searrow:↘ swarrow:↙ nwarrow:↖
    rightharpoonup:⇀ leftharpoonup:↼ rightleftharpoons:⇌ rightsquigarrow:⇝ leadsto:⇝ upharpoonright:↾ restriction:↾ vartriangle:△ bowtie:⋈`);

  const large = pairs(`
    sum:∑ prod:∏ coprod:∐ bigcup:⋃ bigcap:⋂ bigsqcup:⨆ biguplus:⨄ bigvee:⋁ bigwedge:⋀ bigoplus:⨁ bigotimes:⨂ bigodot:⨀`);

  const integrals = pairs("int:∫ iint:∬ iiint:∭ oint:∮ intop:∫ smallint:∫");

  const delimiters = pairs(`
    {:{ }:} lbrace:{ rbrace:} lbrack:[ rbrack:] langle:⟨ rangle:⟩ lfloor:⌊ rfloor:⌋ lceil:⌈ rceil:⌉ vert:| lvert:| rvert:| |:‖ Vert:‖ lVert:‖
    rVert:‖ lgroup:⟮ rgroup:⟯ ulcorner:⌜ urcorner:⌝ llcorner:⌞ lrcorner:⌟ backslash:\\ uparrow:↑ downarrow:↓ Uparrow:⇑ Downarrow:⇓`);

  const functions = new Set(`arccos arcsin arctan arccot arcsec arccsc arg cos cosh cot coth csc deg dim exp hom ker lg ln log sec sech csch sin
    sinh tan tanh sgn lcm`.trim().split(/\s+/));
  const limits = new Set("lim liminf limsup max min sup inf det gcd Pr argmax argmin".split(" "));

  const accents = pairs(`hat:^ check:ˇ tilde:~ acute:´ grave:\` dot:˙ ddot:¨ dddot:⃛ breve:˘ bar:¯ vec:→ mathring:˚`);
  const over = pairs(`overline:‾ widehat:^ widetilde:~ widecheck:ˇ overrightarrow:→ overleftarrow:← overleftrightarrow:↔ overbrace:⏞ overparen:⏜ wideparen:⏜ overarc:⏜ widearc:⏜
    overbracket:⎴ arc:⏜`);
  const under = pairs("underline:_ underbrace:⏟ underrightarrow:→ underleftarrow:← underparen:⏝ underbracket:⎵");

  // Widths in em; backslash-space and the like.
  const spaces = { ",": 0.167, thinspace: 0.167, ":": 0.222, ">": 0.222, medspace: 0.222, ";": 0.278, thickspace: 0.278, " ": 0.25, "~": 0.25,
    "\n": 0.25, enspace: 0.5, quad: 1, qquad: 2, "!": -0.167, negthinspace: -0.167, nobreakspace: 0.25, space: 0.25 };

  // Commands without a visible effect here; those in `ignoredWithArgument` also lose their argument.
  const ignored = new Set(`limits nolimits displaylimits displaystyle textstyle scriptstyle scriptscriptstyle allowbreak nobreak noindent centering
    hfill hline notag nonumber strut relax protect bigskip medskip smallskip par null mathstrut rm bf it sf tt cal boldmath
    normalsize small large Large tiny huge`.trim().split(/\s+/));
  const ignoredWithArgument = new Set("label hspace vspace cline phantomsection hspace* vspace* kern mkern".split(" "));

  return { letters, upright, operators, large, integrals, delimiters, functions, limits, accents, over, under, spaces, ignored, ignoredWithArgument };
})();
