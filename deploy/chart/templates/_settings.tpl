{{- /* Written by `python -P -m forebay.controller.install.files deploy` from controller/install/: change that. */ -}}
{{- define "forebay.settings" -}}
{{- $made := dict "namespace" $.Release.Namespace -}}
{{- $_ := set $made "image" $.Values.image -}}
{{- $_ := set $made "pullPolicy" $.Values.pullPolicy -}}
{{- $_ := set $made "pullSecrets" $.Values.pullSecrets -}}
{{- $_ := set $made "defaultEngine" $.Values.defaultEngine -}}
{{- $_ := set $made "driver" $.Values.driver -}}
{{- $_ := set $made "storageClass" $.Values.storageClass -}}
{{- $_ := set $made "uid" $.Values.uid -}}
{{- $_ := set $made "dataPort" $.Values.dataPort -}}
{{- $_ := set $made "controlPort" $.Values.controlPort -}}
{{- $_ := set $made "cpuRequest" $.Values.cpuRequest -}}
{{- $_ := set $made "memoryRequest" $.Values.memoryRequest -}}
{{- $_ := set $made "memoryLimit" $.Values.memoryLimit -}}
{{- $_ := set $made "freeSpaceFloor" $.Values.freeSpaceFloor -}}
{{- $_ := set $made "drainRate" $.Values.drainRate -}}
{{- $_ := set $made "priorityClass" $.Values.priorityClass -}}
{{- $_ := set $made "fluidNodeLabels" $.Values.fluidNodeLabels -}}
{{- $_ := set $made "networkPolicy" $.Values.networkPolicy -}}
{{ toPrettyJson $made }}
{{- end -}}
