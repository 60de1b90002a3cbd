package main

import (
	"fmt"
	"math"

	"github.com/seakeep/seakeep/bench/result"
)

// cases are the report's.
func (r *rig) cases(report *result.Report, outcomes []outcome) error {
	var outside []string
	all := map[string][2]int{}
	for _, how := range []string{fromSteps, fromStaging, fromRehearsal, fromRecorded, fromTraces} {
		for _, k := range kinds {
			kind := k.kind
			errs := result.Runs{}
			right, n := 0, 0
			for _, o := range outcomes {
				if o.how != how || o.kind != string(kind) {
					continue
				}
				n++
				if o.unknown == "" {
					errs.Add(subject, math.Abs(o.error()))
				}
				if o.right() {
					right++
				} else if k.targeted {
					outside = append(outside, o.String())
				}
			}
			if n == 0 {
				continue
			}
			both := all[string(kind)]
			all[string(kind)] = [2]int{both[0] + right, both[1] + n}
			if len(errs[subject]) == 0 {
				errs.Add(subject, 100)
			}
			c := errs.Case(how, "error of the "+string(kind)+" forecast on all nodes, absolute, median", "%", subject)
			near := 0
			for _, e := range errs[subject] {
				if e <= 20 {
					near++
				}
			}
			c.Note = fmt.Sprintf("%d of %d within ±20 %%; the truth is inside the interval in %d of %d.", near, n, right, n)
			if k.targeted {
				c.AtMost(20)
				c.Profile = outsideName
			} else {
				c.Note += " The truth is demand and waiting."
			}
			report.Cases = append(report.Cases, c)
		}
	}
	for _, k := range kinds {
		kind := k.kind
		if count, ok := all[string(kind)]; ok && k.targeted {
			runs := result.Runs{}
			runs.Add(subject, 100*float64(count[0])/float64(count[1]))
			c := runs.Case("all", "truths of "+string(kind)+" inside the 95 % interval", "%", subject)
			low, high := wilson(count[0], count[1])
			c.Note = fmt.Sprintf("%d of %d, Wilson interval %.0f–%.0f %%.", count[0], count[1], 100*low, 100*high)
			met := runs[subject][0] >= 90
			c.Target, c.Met, c.Profile = "≥ 90 %", &met, outsideName
			report.Cases = append(report.Cases, c)
		}
	}
	if len(report.Missed()) > 0 || len(outside) > 0 {
		report.Profiles = append(report.Profiles, result.Profile{Name: outsideName, Top: append([]string{"forecasts whose interval does not hold the truth:"}, outside...)})
	}
	return nil
}

const outsideName = "forecasts beside the truth"

// wilson is the 95 % interval of a share.
func wilson(k, n int) (low, high float64) {
	const z = 1.96
	p, m := float64(k)/float64(n), float64(n)
	middle := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return max(0, middle-half), min(1, middle+half)
}
