package main

import (
	"context"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/lab"
)

// startGate starts the gate with its limits off, because what is measured is what sharing does by itself.
func (r *rig) startGate(ctx context.Context) (err error) {
	r.gate, err = door.StartGate(ctx, r.lab, lab.ProcessSpec{Name: gateName, Path: r.options.seakeep}, func(config *v1alpha1.GateConfiguration) {
		config.DefaultLimits = v1alpha1.Disabled
		config.Relay = &v1alpha1.GateRelay{Rules: []v1alpha1.RelayRule{{Resources: []string{"pods", "configmaps"}}}}
	})
	if err == nil {
		r.urls[gateName] = r.gate.URL
	}
	return err
}

func (r *rig) startNaive(ctx context.Context) error {
	address, err := door.Address(r.lab)
	if err != nil {
		return err
	}
	keys := r.lab.PKI()
	r.urls[naiveName], err = door.Start(ctx, r.lab, address, lab.ProcessSpec{Name: naiveName, Path: r.options.naive, Args: []string{
		"-listen", address, "-cert", keys.ServingCert, "-key", keys.ServingKey, "-upstream", r.lab.APIServerURL(0), "-ca", r.lab.CAFile(),
	}})
	return err
}
