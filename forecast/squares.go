package forecast

import (
	"math"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat/distuv"
)

// squares is a weighted least-squares fit of a polynomial in n without the powers that are left out.
type squares struct {
	b   []float64  // coefficients
	cov *mat.Dense // (XᵀWX)⁻¹, to be scaled by the variance of weight 1
	chi float64    // Σ w·r², of the observations that count for it
	n   int        // how many those are
	pow []float64  // powers of n
}

// observation is one of a fit.
type observation struct {
	n, y, weight float64
	// pins is true for one that holds the line but whose scatter says nothing of the others': of a cluster without the component.
	pins bool
}

// fit returns ok false where the observations do not carry so many coefficients.
func fit(data []observation, powers ...float64) (f squares, ok bool) {
	p := len(powers)
	most := 1.0
	for _, o := range data {
		most = math.Max(most, o.n)
	}
	normal, right := mat.NewSymDense(p, nil), mat.NewVecDense(p, nil)
	row := make([]float64, p)
	for _, o := range data {
		for i, power := range powers {
			row[i] = math.Pow(o.n/most, power) // 0⁰ is 1
		}
		for i := range p {
			right.SetVec(i, right.AtVec(i)+o.weight*row[i]*o.y)
			for j := i; j < p; j++ {
				normal.SetSym(i, j, normal.At(i, j)+o.weight*row[i]*row[j])
			}
		}
	}
	var cholesky mat.Cholesky
	if !cholesky.Factorize(normal) || cholesky.Cond() > 1e12 {
		return f, false
	}
	var b mat.VecDense
	var inverse mat.SymDense
	if cholesky.SolveVecTo(&b, right) != nil || cholesky.InverseTo(&inverse) != nil {
		return f, false
	}
	f = squares{b: make([]float64, p), cov: mat.NewDense(p, p, nil), pow: powers}
	for i := range p {
		f.b[i] = b.AtVec(i) / math.Pow(most, powers[i])
		for j := range p {
			f.cov.Set(i, j, inverse.At(i, j)/math.Pow(most, powers[i]+powers[j]))
		}
	}
	for _, o := range data {
		if o.pins {
			continue
		}
		r := o.y - f.at(o.n)
		f.chi += o.weight * r * r
		f.n++
	}
	return f, true
}

func (f *squares) at(n float64) float64 {
	y := 0.0
	for i, power := range f.pow {
		y += f.b[i] * math.Pow(n, power)
	}
	return y
}

// student is the t that a share of all values stays below, e.g. 0.975; infinite without a degree of freedom.
func student(share, freedom float64) float64 {
	if !(freedom > 0) {
		return math.Inf(1)
	}
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.Quantile(share)
}
