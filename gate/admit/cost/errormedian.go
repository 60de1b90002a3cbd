package cost

import "math"

// The steps of an errorMedian: the first is every error up to a tenth of a percent, each next one a tenth larger, the last
// everything from about 10 on.
const (
	leastError = 0.001
	errorStep  = 1.1
	errorSteps = 100
	// lately is how many errors there may be before the older ones count half.
	lately = 8192
)

// errorMedian is a streaming median of errors ≥ 0: a histogram of logarithmic steps, exact to half a step, which forgets.
type errorMedian struct {
	steps [errorSteps]int32
	total int32
}

func (m *errorMedian) add(err float64) {
	step := 0
	if err > leastError {
		step = int(min(1+math.Log(err/leastError)/math.Log(errorStep), errorSteps-1))
	}
	m.steps[step]++
	if m.total++; m.total < lately {
		return
	}
	m.total = 0
	for i := range m.steps {
		m.steps[i] /= 2
		m.total += m.steps[i]
	}
}

// value is the median, 0 when there is none.
func (m *errorMedian) value() float64 {
	below := int32(0)
	for i, n := range m.steps {
		if below += n; below*2 >= m.total && below > 0 {
			if i == 0 {
				return leastError
			}
			return leastError * math.Pow(errorStep, float64(i)-0.5)
		}
	}
	return 0
}
