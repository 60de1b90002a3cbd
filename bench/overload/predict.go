package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/seakeep/seakeep/bench/result"
)

const (
	// mostError is of a predicted cost, in per cent.
	mostError = 25
	// costError is the gate's own word: the median absolute error of what it predicted for shapes it has seen 20 times.
	costError  = "seakeep_gate_admit_cost_error_ratio"
	prediction = "cost predicted, median absolute error"
)

// predicted notes what the gate says of its predictions, after a storm.
func (r *rig) predicted(ctx context.Context, w *way, s storm) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.gate.Metrics, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("reading the gate's metrics: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading the gate's metrics: %w", err)
	}
	errors, err := costErrors(text)
	if err != nil {
		return err
	}
	for of, ratio := range errors {
		if r.costErrors[of] == nil {
			r.costErrors[of] = result.Runs{}
		}
		r.costErrors[of].Add(gateName, 100*ratio)
		r.say("  cost of %s in %s predicted with a median error of %s %%", s.name, of, result.Number(100*ratio))
	}
	return nil
}

// costErrors are the errors by what was predicted: seconds, bytes.
func costErrors(text []byte) (map[string]float64, error) {
	got := map[string]float64{}
	for line := range bytes.Lines(text) {
		labels, ok := strings.CutPrefix(string(line), costError+`{of="`)
		of, value, closed := strings.Cut(labels, `"} `)
		if !ok || !closed {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return nil, fmt.Errorf("parsing the gate's metrics: %s: %w", costError, err)
		}
		if !math.IsNaN(v) { // a gate that has predicted nothing yet has no error
			got[of] = v
		}
	}
	return got, nil
}

func (r *rig) predictionCases(report *result.Report) error {
	for _, of := range []string{"seconds", "bytes"} {
		runs := r.costErrors[of]
		if len(runs[gateName]) == 0 {
			continue
		}
		cases := []result.Case{runs.Case(prediction, "of "+of+", of shapes seen 20 times and more", "%", gateName)}
		cases[0].Note = "by the gate's own metric, after each turn of every storm."
		cases[0].AtMost(mostError)
		if err := r.blame(report, cases); err != nil {
			return err
		}
		report.Cases = append(report.Cases, cases...)
	}
	return nil
}
